//! What the reader of configurations says of a value of the wrong kind, as a sentence that says what to write.

/// `why` with the part about a wrong kind of value replaced; other errors stay as they are.
pub fn explain(why: &str) -> String {
    let Some((before, rest)) = ["invalid type: ", "invalid value: "].iter().find_map(|kind| why.split_once(kind))
    else {
        return why.into();
    };
    let Some((got, expected)) = rest.split_once(", expected ") else { return why.into() };
    // what serde_json adds where there is no file to point into
    let expected = expected.split(" at line ").next().unwrap_or(expected);
    format!("{before}{}", sentence(got, expected))
}

fn sentence(got: &str, expected: &str) -> String {
    let quoted = |mark: char| Some(got.split_once(mark)?.1.rsplit_once(mark)?.0);
    let value = quoted('"').or(quoted('`')).unwrap_or(got);
    let text = got.starts_with("string ");
    let wanted = match expected {
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of at least 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "a boolean" => "true or false",
        "a sequence" => "a list, such as [1, 2]",
        section if section.starts_with("struct ") || section == "a map" => {
            "values to its keys one by one, as SECTION.KEY=value"
        }
        "a string" if !text => {
            return format!(
                "give text, not {value}; text that looks like something else is put in quotes: '\"{value}\"'"
            );
        }
        other => other,
    };
    let number = expected.trim_start_matches(['f', 'u', 'i']).parse::<u8>().is_ok() || expected.ends_with("size");
    let digits = value.trim_start_matches(['+', '-']);
    if text && number && expected != "f64" && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return match value.parse::<i64>() {
            Ok(whole) => format!("write {whole} in place of {value}"),
            Err(_) => format!("{value} is too large; give at most {}", i64::MAX),
        };
    }
    match value.replacen(',', ".", 1).parse::<f64>().ok().filter(|_| text && number) {
        Some(plain) if plain.is_infinite() => format!("{value} is too large"),
        Some(plain) if plain.is_finite() => format!("write {plain:?} in place of {value}"),
        _ => format!("give {wanted}, not {}", if text { format!("\"{value}\"") } else { value.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::explain;

    #[test]
    fn a_wrong_kind_of_value_says_what_to_write() {
        for (why, words) in [
            (r#"invalid type: string ".5", expected f64"#, "write 0.5 in place of .5"),
            (r#"adam: lr: invalid type: string "5.", expected f64"#, "adam: lr: write 5.0 in place of 5."),
            (r#"invalid type: string "0,25", expected f64"#, "write 0.25 in place of 0,25"),
            (r#"invalid type: string "007", expected u64"#, "write 7 in place of 007"),
            (
                r#"invalid type: string "9223372036854775808", expected u64"#,
                "9223372036854775808 is too large; give at most 9223372036854775807",
            ),
            (r#"invalid type: string "many", expected usize"#, r#"give a whole number of at least 0, not "many""#),
            ("invalid type: floating point `0.5`, expected u64", "give a whole number of at least 0, not 0.5"),
            ("invalid value: integer `-1`, expected u64", "give a whole number of at least 0, not -1"),
            (r#"invalid type: string "1e400", expected f64"#, "1e400 is too large"),
            (
                "invalid type: integer `3`, expected struct Data",
                "give values to its keys one by one, as SECTION.KEY=value, not 3",
            ),
            (r#"invalid type: string "yes", expected a boolean"#, r#"give true or false, not "yes""#),
            (
                "invalid type: integer `2024`, expected a string",
                "give text, not 2024; text that looks like something else is put in quotes: '\"2024\"'",
            ),
            ("missing field `spec`", "missing field `spec`"),
        ] {
            assert_eq!(explain(why), words);
        }
    }
}
