//! What a composition says: `2*a & b & !c`, read by recursive descent.
//!
//! mixture = \[ratio ":"\] product { "|" \[ratio ":"\] product };  product = factor { "&" factor };
//! factor = number "*" factor | "!" factor | "(" mixture ")" | name.

use candle_core::{Result, bail};
use std::fmt;

/// An expression over models that have names.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// A model.
    Model(String),
    /// Its energy times a number: the density to that power. `!a` is `-1*a`.
    Weighted(f64, Box<Expression>),
    /// The sum of energies: the product of densities.
    Product(Vec<Expression>),
    /// The sum of densities, each times its ratio where one is given.
    Mixture(Vec<(Option<f64>, Expression)>),
}

/// Smaller weights, and greater ones than its inverse, leave nothing of sums of energies.
const LEAST: f64 = 1e-100;
/// Deeper ones are a slip, and would overflow the stack.
const DEEPEST: usize = 100;

impl Expression {
    /// Errors, naming the character, if `text` is no expression.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let all = parser.mixture()?;
        match parser.peek() {
            None => Ok(all),
            Some(_) => parser.expected("&, | or the end"),
        }
    }

    /// The names of its models, each once, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names = vec![];
        self.visit(&mut |name| {
            if !names.contains(&name) {
                names.push(name);
            }
        });
        names
    }

    /// Errors unless `models` are those that it names.
    pub fn check_names(&self, models: &[String]) -> Result<()> {
        let names = self.names();
        if let Some(name) = names.iter().find(|name| !models.iter().any(|model| model == *name)) {
            bail!("compose: there is no model `{name}`; there are: {}", models.join(", "));
        }
        match models.iter().find(|model| !names.contains(&model.as_str())) {
            Some(idle) => bail!("compose: the model `{idle}` is not in \"{self}\"; leave it out, or name it there"),
            None => Ok(()),
        }
    }

    /// Whether there is a mixture in it.
    pub fn mixes(&self) -> bool {
        match self {
            Self::Model(_) => false,
            Self::Weighted(_, of) => of.mixes(),
            Self::Product(parts) => parts.iter().any(Self::mixes),
            Self::Mixture(_) => true,
        }
    }

    /// Whether its normaliser is the same at every t, if that of a model is where `known` says so.
    pub fn normalised(&self, known: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::Model(name) => known(name),
            Self::Weighted(w, of) => *w == 1. && of.normalised(known),
            Self::Product(_) => false,
            Self::Mixture(parts) => parts.iter().all(|(_, part)| part.normalised(known)),
        }
    }

    /// The parts of its mixtures that are not normalised, each with its ratio if one is given; parts of parts come first.
    pub fn unnormalised(&self, known: &dyn Fn(&str) -> bool) -> Vec<(Option<f64>, &Self)> {
        match self {
            Self::Model(_) => vec![],
            Self::Weighted(_, of) => of.unnormalised(known),
            Self::Product(parts) => parts.iter().flat_map(|part| part.unnormalised(known)).collect(),
            Self::Mixture(parts) => {
                let own = |(ratio, part): &'_ (Option<f64>, Self)| (!part.normalised(known)).then_some(*ratio);
                let of = parts.iter().map(|each| (each.1.unnormalised(known), own(each), &each.1));
                of.flat_map(|(inner, own, part)| inner.into_iter().chain(own.map(|ratio| (ratio, part)))).collect()
            }
        }
    }

    /// The same with the model `name` in place of each part of a mixture that is `part`.
    pub fn with_part(&self, part: &Self, name: &str) -> Self {
        let all = |of: &Self| of.with_part(part, name);
        match self {
            Self::Model(own) => Self::Model(own.clone()),
            Self::Weighted(w, of) => Self::Weighted(*w, Box::new(all(of))),
            Self::Product(parts) => Self::Product(parts.iter().map(all).collect()),
            Self::Mixture(parts) => {
                let new = |of: &Self| if of == part { Self::Model(name.into()) } else { all(of) };
                Self::Mixture(parts.iter().map(|(ratio, of)| (*ratio, new(of))).collect())
            }
        }
    }

    fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a str)) {
        match self {
            Self::Model(name) => f(name),
            Self::Weighted(_, of) => of.visit(f),
            Self::Product(parts) => parts.iter().for_each(|part| part.visit(f)),
            Self::Mixture(parts) => parts.iter().for_each(|(_, part)| part.visit(f)),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let inner = |of: &Self| match of {
            Self::Product(_) | Self::Mixture(_) => format!("({of})"),
            _ => of.to_string(),
        };
        match self {
            Self::Model(name) => f.write_str(name),
            Self::Weighted(w, of) if *w == -1. => write!(f, "!{}", inner(of)),
            Self::Weighted(w, of) => write!(f, "{}*{}", short(*w), inner(of)),
            Self::Product(parts) => f.write_str(&parts.iter().map(inner).collect::<Vec<_>>().join(" & ")),
            Self::Mixture(parts) => {
                let part = |(ratio, of): &(Option<f64>, Self)| {
                    let of = if matches!(of, Self::Mixture(_)) { format!("({of})") } else { of.to_string() };
                    ratio.map_or(of.clone(), |ratio| format!("{}:{of}", short(ratio)))
                };
                f.write_str(&parts.iter().map(part).collect::<Vec<_>>().join(" | "))
            }
        }
    }
}

/// A number as it is mostly typed: 0.001, and 1e300 in place of its 301 digits.
fn short(v: f64) -> String {
    let usual = v == 0. || (1e-6..1e15).contains(&v.abs());
    if usual { v.to_string() } else { format!("{v:e}") }
}

struct Parser<'a> {
    text: &'a str,
    at: usize, // in bytes, at the start of a character
    depth: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next character that is no space.
    fn peek(&mut self) -> Option<char> {
        self.at += self.rest().len() - self.rest().trim_start().len();
        self.rest().chars().next()
    }

    /// Whether the next character is `c`, which is then passed.
    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn expected<T>(&mut self, what: &str) -> Result<T> {
        let found = self.peek().map_or("the end".into(), |c| format!("`{}`", c.escape_debug()));
        let place = 1 + self.text.get(..self.at).unwrap_or_default().chars().count();
        bail!("compose: character {place} of \"{}\" is {found}; expected {what}", self.text.escape_debug())
    }

    fn mixture(&mut self) -> Result<Expression> {
        let mut parts = vec![];
        loop {
            let before = self.at;
            let ratio = match self.number()? {
                Some(ratio) if self.peek() == Some(':') => {
                    if ratio <= 0. {
                        self.at = before;
                        return self.expected("a ratio above 0");
                    }
                    self.take(':');
                    Some(ratio)
                }
                _ => {
                    self.at = before;
                    None
                }
            };
            parts.push((ratio, self.product()?));
            if !self.take('|') {
                break;
            }
        }
        Ok(match (parts.len(), parts.pop()) {
            (1, Some((None, only))) => only,
            (_, Some(last)) => {
                parts.push(last);
                Expression::Mixture(parts)
            }
            (_, None) => return self.expected("a model"),
        })
    }

    fn product(&mut self) -> Result<Expression> {
        let first = self.factor()?;
        if self.peek() != Some('&') {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take('&') {
            parts.push(self.factor()?);
        }
        Ok(Expression::Product(parts))
    }

    fn factor(&mut self) -> Result<Expression> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.expected("an expression that is not nested so deeply");
        }
        let operand = self.operand();
        self.depth -= 1;
        operand
    }

    fn operand(&mut self) -> Result<Expression> {
        if self.take('!') {
            return Ok(Expression::Weighted(-1., Box::new(self.factor()?)));
        }
        if self.take('(') {
            let inner = self.mixture()?;
            return if self.take(')') { Ok(inner) } else { self.expected("&, | or )") };
        }
        if let Some(weight) = self.number()? {
            return if self.take('*') {
                Ok(Expression::Weighted(weight, Box::new(self.factor()?)))
            } else {
                self.expected("* and what the number weighs")
            };
        }
        let length = self.rest().find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(self.rest().len());
        let name = self.rest().get(..length).unwrap_or_default().to_string();
        if name.is_empty() {
            return self.expected("a model, a number, ! or (");
        }
        self.at += length;
        Ok(Expression::Model(name))
    }

    /// A number that leaves room to reckon with it, if there is one next.
    fn number(&mut self) -> Result<Option<f64>> {
        let next = self.peek();
        if !next.is_some_and(|c| c.is_ascii_digit() || c == '.' || c == '-') {
            return Ok(None);
        }
        let part = |c: char, before: Option<char>| match c {
            '0'..='9' | '.' | 'e' | 'E' => true,
            '+' | '-' => before.is_none_or(|b| b == 'e' || b == 'E'),
            _ => false,
        };
        let (mut length, mut before) = (0, None);
        for c in self.rest().chars() {
            if !part(c, before) {
                break;
            }
            (length, before) = (length + c.len_utf8(), Some(c));
        }
        match self.rest().get(..length).and_then(|text| text.parse::<f64>().ok()).filter(|v| v.is_finite()) {
            Some(value) if value != 0. && !(LEAST..=1. / LEAST).contains(&value.abs()) => {
                self.expected("a number from 1e-100 to 1e100")
            }
            Some(value) => {
                self.at += length;
                Ok(Some(value))
            }
            None => self.expected("a number such as 2 or 0.5"),
        }
    }
}
