//! `registry!`: a family of interchangeable things (processes, samplers, weightings, ...) as one serde type.
//!
//! Each thing is a struct of options in its own file, with `Default`, `Clone`, serde and [`Named`];
//! a new one is that file, its `mod` line, and one word in the family's `registry!`.

use serde_json::{Map, Value};

/// What `langevin list` and the configuration call a thing.
pub trait Named {
    /// Its name in configurations, in kebab case.
    const NAME: &'static str;
    /// One line: what it is and where it comes from.
    const ABOUT: &'static str;
}

/// The options of one thing; the error names the option.
#[doc(hidden)]
pub fn read<T: serde::de::DeserializeOwned>(options: Map<String, Value>) -> Result<T, String> {
    // JSON has neither NaN nor infinity: both come as null
    if let Some((key, _)) = options.iter().find(|(_, value)| value.is_null()) {
        return Err(format!("{key} must be a finite number"));
    }
    // serde does not say which option it stumbled over: it is the one that fails alone
    let alone = |key: &str| {
        Value::Object(options.iter().filter(|(k, _)| *k == key).map(|(k, v)| (k.clone(), v.clone())).collect())
    };
    serde_json::from_value(Value::Object(options.clone())).map_err(|why| {
        let why = why.to_string();
        let named = |key: &str| why.starts_with(key) || why.contains(&format!("`{key}`"));
        // an option that goes with another one fails alone too, but with other words
        let same = |key: &&String| serde_json::from_value::<T>(alone(key)).is_err_and(|e| e.to_string() == why);
        match options.keys().find(same) {
            Some(key) if !named(key) => format!("{key}: {why}"),
            _ => why,
        }
    })
}

#[doc(hidden)]
pub mod export {
    pub use {serde, serde_json};
}

/// Declares an enum over structs that implement one object-safe trait and [`Named`].
///
/// It is written and read as a table with a `name` and the options of that struct (`{ name = "vp", beta_max = 20.0 }`),
/// or as the name alone; a name or an option that does not exist is an error that lists those that do.
/// With `check Trait::method` at the end, what was read must also pass `method(&self) -> Result<()>`.
#[macro_export]
macro_rules! registry {
    ($(#[$meta:meta])* $vis:vis enum $Any:ident: $Trait:path = $family:literal { $($Thing:ident),+ $(,)? } $(check $check:path)?) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        #[allow(missing_docs)]
        $vis enum $Any { $($Thing($Thing)),+ }

        impl $Any {
            /// Name and one-line description of every member.
            pub const ALL: &'static [(&'static str, &'static str)] =
                &[$((<$Thing as $crate::registry::Named>::NAME, <$Thing as $crate::registry::Named>::ABOUT)),+];

            /// Every member with its default options.
            pub fn defaults() -> Vec<Self> {
                vec![$(Self::$Thing(Default::default())),+]
            }

            /// The member of that name with its default options.
            pub fn named(name: &str) -> ::std::result::Result<Self, String> {
                $(if name == <$Thing as $crate::registry::Named>::NAME { return Ok(Self::$Thing(Default::default())); })+
                let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
                Err(format!("unknown {} `{name}`; one of: {}", $family, names.join(", ")))
            }

            /// The name it has in configurations.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$Thing(_) => <$Thing as $crate::registry::Named>::NAME),+ }
            }

            /// The member behind its trait.
            pub fn get(&self) -> &(dyn $Trait + 'static) {
                match self { $(Self::$Thing(thing) => thing),+ }
            }

            /// The member behind its trait, to change it.
            pub fn get_mut(&mut self) -> &mut (dyn $Trait + 'static) {
                match self { $(Self::$Thing(thing) => thing),+ }
            }
        }

        $(impl From<$Thing> for $Any { fn from(thing: $Thing) -> Self { Self::$Thing(thing) } })+

        impl $crate::registry::export::serde::Serialize for $Any {
            fn serialize<S: $crate::registry::export::serde::Serializer>(&self, to: S) -> ::std::result::Result<S::Ok, S::Error> {
                use $crate::registry::export::{serde, serde_json};
                let value = match self { $(Self::$Thing(thing) => serde_json::to_value(thing)),+ };
                let mut table = serde_json::Map::new();
                table.insert("name".into(), self.name().into());
                if let serde_json::Value::Object(options) = value.map_err(serde::ser::Error::custom)? {
                    table.extend(options.into_iter().filter(|(_, option)| !option.is_null()));
                }
                serde::Serialize::serialize(&table, to)
            }
        }

        impl<'de> $crate::registry::export::serde::Deserialize<'de> for $Any {
            fn deserialize<D: $crate::registry::export::serde::Deserializer<'de>>(from: D) -> ::std::result::Result<Self, D::Error> {
                use $crate::registry::export::{serde::{self, de::Error}, serde_json::{self, Value}};
                let mut table = match <Value as serde::Deserialize>::deserialize(from)? {
                    Value::String(name) => serde_json::Map::from_iter([("name".to_string(), Value::String(name))]),
                    Value::Object(table) => table,
                    other => return Err(D::Error::custom(format!("a {} is a name or a table with a name, not {other}", $family))),
                };
                let name = match table.remove("name") {
                    Some(Value::String(name)) => name,
                    _ => return Err(D::Error::custom(format!("a {} needs a `name`", $family))),
                };
                let read = |table| {
                    $(if name == <$Thing as $crate::registry::Named>::NAME {
                        return $crate::registry::read(table).map(Self::$Thing)
                            .map_err(|e| D::Error::custom(format!("{} `{name}`: {e}", $family)));
                    })+
                    Self::named(&name).map_err(D::Error::custom)
                };
                let any = read(table)?;
                $($check(any.get()).map_err(|e| D::Error::custom(format!("{} `{name}`: {e}", $family)))?;)?
                Ok(any)
            }
        }
    };
}
