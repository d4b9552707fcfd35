//! Tables as programs write them: their names, separators, encodings, decimal signs and blank lines.

use langevin_data::{Columns, Dataset, Options, Partial, Scaling, open, partial};
use std::path::PathBuf;
use tempfile::TempDir;

struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("t.csv")
    }

    fn write(&self, bytes: &[u8]) -> String {
        std::fs::write(self.path(), bytes).unwrap();
        self.path().to_str().unwrap().into()
    }

    fn with(&self, bytes: &[u8], options: Options) -> Result<Box<dyn Dataset>, String> {
        open(&self.write(bytes), &options).map_err(|e| e.to_string())
    }

    /// Names, rows as they are, and notes.
    fn read(&self, text: impl AsRef<[u8]>) -> (Vec<String>, Vec<Vec<f64>>, String) {
        read(self.with(text.as_ref(), Options::default()).unwrap().as_ref())
    }

    #[track_caller]
    fn fails(&self, text: &str, words: &[&str]) {
        let why = self.with(text.as_bytes(), Options::default()).err().expect(text);
        for word in words {
            assert!(why.contains(word), "no {word:?} in {why}");
        }
    }

    fn partial(&self, text: &str, names: &[&str]) -> Partial {
        self.write(text.as_bytes());
        partial(&self.path(), Some(&columns(names))).unwrap()
    }
}

fn read(data: &dyn Dataset) -> (Vec<String>, Vec<Vec<f64>>, String) {
    let columns = data.columns().unwrap();
    let x = data.get(&(0..data.len()).collect::<Vec<_>>()).unwrap().x;
    let rows = columns.restore(&x).unwrap();
    let rows = rows.iter().map(|row| row.iter().map(|v| (v * 1e4).round() / 1e4).collect()).collect();
    (columns.names.clone(), rows, data.notes().join("\n"))
}

fn columns(names: &[&str]) -> Columns {
    let d = names.len();
    Columns { names: names.iter().map(|name| name.to_string()).collect(), mean: vec![0.; d], std: vec![1.; d] }
}

fn like(names: &[&str]) -> Options {
    Options { scaling: Scaling::Like(columns(names)), ..Options::default() }
}

const FOUR: [[f64; 2]; 4] = [[1.5, 2.], [3.5, 4.], [5., 6.5], [7., 8.5]];

/// Rows of `FOUR` under `head`, between `mark`s.
fn four(head: &str, mark: &str) -> String {
    head.to_string() + &FOUR.map(|[a, b]| format!("{a}{mark}{b}\n")).concat()
}

#[test]
fn names_are_whole_and_told_from_each_other() {
    let dir = Dir::new();
    let long = ["äöü ".repeat(30) + "one", "äöü ".repeat(30) + "two"];
    let (names, rows, _) = dir.read(four(&format!("{},{}\n", long[0], long[1]), ","));
    assert_eq!((names, rows), (long.to_vec(), FOUR.map(Vec::from).to_vec()));
    let both = [long[0].as_str(), &long[1]];
    let turned = dir.with(four(&format!("{},{}\n", long[1], long[0]), ",").as_bytes(), like(&both)).unwrap();
    assert_eq!(read(turned.as_ref()).1[0], [2., 1.5]);
    // models of older versions have 40 bytes of a name: enough where these are different
    let old = |name: &str| String::from_utf8_lossy(&name.as_bytes()[..40]).into_owned();
    let table = four(&format!("{},mass\n", long[0]), ",");
    let matched = dir.with(table.as_bytes(), like(&["mass", &old(&long[0])])).unwrap();
    assert_eq!(read(matched.as_ref()).1[0], [2., 1.5]);
    let alike = [old(&long[0]), old(&long[1])];
    let why = dir.with(four(&format!("{},{}\n", long[0], long[1]), ",").as_bytes(), like(&[&alike[0], &alike[1]]));
    assert!(why.err().unwrap().contains("no more than 40 bytes of each name"));

    let (names, _, notes) = dir.read(four("a,a\n", ","));
    assert!(names == ["a", "a"] && notes.contains("more than one column is called a"), "{notes}");
    let (_, _, notes) = dir.read("a,b,a,a\n1,2,3,4\n2,3,4,6\n");
    assert!(notes.contains("called a: these"), "{notes}");
    let (names, _, notes) = dir.read(four("a,A\n", ","));
    assert!(names == ["a", "A"] && notes.is_empty(), "{notes}");
    // of many columns those are named that make the difference
    let many: Vec<String> = (0..30).map(|j| format!("c{j}")).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    let head = many.join(",").replace("c7,", "id,") + ",more\n";
    let row = (0..31).map(|j| j.to_string()).collect::<Vec<_>>().join(",");
    let why = dir.with((head + &row).as_bytes(), like(&names)).err().unwrap();
    assert!(why.contains("31 columns") && why.contains("lacks c7, ") && why.contains("has id, more"), "{why}");
    // before a cell is read that is no number
    let why = dir.with(b"site,a,b\nnorth,1,2\n", like(&["a", "b"])).err().unwrap();
    assert!(why.contains("site, a, b") && why.contains("trained on a, b"), "{why}");
}

#[test]
fn the_separator_is_the_one_that_makes_numbers() {
    let dir = Dir::new();
    for (text, names) in [
        (four("\"x; y, z, w\";\"p\tq, r\"\n", ";"), ["x; y, z, w", "p\tq, r"]),
        (four("\"a;b;c;d\",\"e\"\n", ","), ["a;b;c;d", "e"]),
        (four("\"a,b\"\t\"c;d;e\"\n", "\t"), ["a,b", "c;d;e"]),
        (four("a, b|c;d\n", "|"), ["a, b", "c;d"]),
        (four("sep=|\na|b\n", "|"), ["a", "b"]),
        (four("\"SEP=:\"\r\na:b\r\n", ":"), ["a", "b"]),
        (four("sep=;\n", ";"), ["1", "2"]),
        (format!("\u{feff}{}", four("sep=\t\na\tb\n", "\t")), ["a", "b"]),
    ] {
        let (found, rows, notes) = dir.read(&text);
        assert_eq!((found, rows), (names.map(String::from).to_vec(), FOUR.map(Vec::from).to_vec()), "{text}\n{notes}");
    }
}

#[test]
fn lines_of_numbers_are_names_or_rows() {
    let dir = Dir::new();
    let rows = |n: usize, row: &dyn Fn(usize) -> String| (0..n).map(row).collect::<String>();
    let floats = rows(20, &|i| format!("{}.25,{}.5,-{}.75\n", i % 7, i % 5, i % 3));
    let counts = rows(20, &|i| format!("{},{},{}\n", i % 7, 10 + i % 5, i % 3));
    let wide = rows(20, &|i| format!("{},0.{},0.{}\n", i % 7, 1 + i % 5, 2 + i % 3));
    for (head, below, names) in [
        ("site,2019,2020\n", &floats, ["site", "2019", "2020"]),
        ("2019,2020,2021\n", &floats, ["2019", "2020", "2021"]),
        ("1999,2009,2019\n", &counts, ["1999", "2009", "2019"]),
        ("0,1,2\n", &floats, ["0", "1", "2"]),
        ("400.5,410.5,420.5\n", &wide, ["400.5", "410.5", "420.5"]),
        ("1st,2nd,3rd\n", &counts, ["1st", "2nd", "3rd"]),
        ("°,%,$\n", &counts, ["°", "%", "$"]),
        ("Na,In,Inf\n", &counts, ["Na", "In", "Inf"]),
    ] {
        let (found, rows, notes) = dir.read(format!("{head}{below}"));
        assert_eq!((found, rows.len()), (names.map(String::from).to_vec(), 20), "{head}{notes}");
        let numbers = head.contains(|c: char| c.is_ascii_digit()) && !head.starts_with("1st");
        assert_eq!(notes.contains("read as names"), numbers, "{head}{notes}");
    }
    // rows that rise, whole numbers among others, a first row like the others
    let ages = rows(20, &|i| format!("{},{}.5\n", 20 + i % 9, 160 + i % 13));
    for text in ["1,2\n3,4\n5,6\n7,8\n".to_string(), format!("25,170\n{ages}"), format!("3,12,1\n{counts}")] {
        let (found, rows, notes) = dir.read(&text);
        assert_eq!((found[0].as_str(), rows.len()), ("1", text.lines().count()), "{text}");
        assert!(notes.contains("read as a row of numbers; data.header=true"), "{notes}");
    }
    // what can be no names, and what nobody can say anything about
    assert_eq!(dir.read("0.5,-3\n1,2\n4,5\n").2, "");
    assert_eq!(dir.read("7,7\n1,2\n4,5\n").2, "");
    let plain = dir.with(b"3,4\n1,2\n", Options { scaling: Scaling::No, ..Options::default() }).unwrap();
    assert_eq!(plain.notes(), ["the first line (3, 4) is read as a row of numbers"]);
    // as the user says
    let with = |text: &str, header: bool| {
        let options = Options { header: Some(header), ..Options::default() };
        dir.with(text.as_bytes(), options).map(|data| read(data.as_ref()))
    };
    let (names, found, notes) = with(&format!("3,12,1\n{counts}"), true).unwrap();
    assert!(names == ["3", "12", "1"] && found.len() == 20 && !notes.contains("data.header"), "{notes}");
    assert_eq!(with(&format!("2019,2020,2021\n{floats}"), false).unwrap().1.len(), 21);
    assert!(with("a,b\n1,2\n", false).unwrap_err().contains("line 1, column 1"));
    // a model knows its columns
    let data = dir.with(format!("2020,2019\n{}", "1,2\n".repeat(4)).as_bytes(), like(&["2019", "2020"])).unwrap();
    assert_eq!((data.len(), read(data.as_ref()).1[0].clone()), (4, vec![2., 1.]));
    assert_eq!(dir.with(b"2020,2019\n1,2\n", like(&["1", "2"])).unwrap().len(), 2);
    // a slip in a first row is no name
    dir.fails("1,2x\n3,4\n", &["line 1, column 2", "data.header=true"]);
    dir.fails("1,null\n3,4\n", &["line 1, column 2", "null"]);
}

#[test]
fn a_first_column_without_a_name_labels_the_rows() {
    let dir = Dir::new();
    for text in [
        ",a,b\n0,1.5,2\n1,3.5,4\n2,5,6.5\n3,7,8.5\n",
        "\"\",\"a\",\"b\"\n\"12\",1.5,2\n\"7\",3.5,4\n\"1\",5,6.5\n\"3\",7,8.5\n",
        "Unnamed: 0,a,b\n0,1.5,2\n1,3.5,4\n2,5,6.5\n3,7,8.5\n",
        ",a,b\nnorth,1.5,2\nsouth,3.5,4\neast,5,6.5\n\"w, e\",7,8.5\n",
        ",1,2\n0,1.5,2\n1,3.5,4\n2,5,6.5\n3,7,8.5\n",
    ] {
        let (names, rows, notes) = dir.read(text);
        assert!(names == ["a", "b"] || names == ["1", "2"], "{names:?}");
        assert_eq!(rows, FOUR.map(Vec::from).to_vec());
        assert!(notes.contains("the first column has no name"), "{notes}");
    }
    let (names, _, notes) = dir.read("a,,b\n1,2,3\n4,5,7\n");
    assert!(names == ["a", "2", "b"] && notes.contains("column 2 has no name and is called 2"), "{notes}");
    // a model of an older version that has learnt it
    let data = dir.with(b",a\n0,5\n1,7\n", like(&["", "a"])).unwrap();
    assert_eq!(read(data.as_ref()).1[1], [1., 7.]);
    let table = dir.partial(",b,a\nx,1,\ny,,4\n", &["a", "b"]);
    let (name, labels) = table.labels.unwrap();
    assert_eq!((name.as_str(), labels.get(0), labels.get(1), labels.get(2)), ("", "x", "y", ""));
    assert_eq!((table.names, table.texts.get(0), table.texts.get(3)), (vec!["b".into(), "a".into()], "1", "4"));
    // a named column that counts is learnt, and told of
    let text: String = "id,a\n".to_string() + &(0..12).map(|i| format!("{},{}\n", i + 1, i * i)).collect::<String>();
    assert!(dir.read(&text).2.contains("id counts the rows"));
}

#[test]
fn texts_in_other_encodings() {
    let dir = Dir::new();
    let text = four("Höhe [µm];Länge “x” €\n", ";");
    let utf16 = |bytes: fn(u16) -> [u8; 2]| {
        std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(bytes).collect::<Vec<u8>>()
    };
    let (latin, _, _) = encoding_rs::WINDOWS_1252.encode(&text);
    for (bytes, told) in [(utf16(u16::to_le_bytes), false), (utf16(u16::to_be_bytes), false), (latin.to_vec(), true)] {
        let (names, rows, notes) = dir.read(&bytes);
        assert_eq!((names, rows), (vec!["Höhe [µm]".into(), "Länge “x” €".into()], FOUR.map(Vec::from).to_vec()));
        assert_eq!(notes.contains("read as windows-1252: Höhe [µm];Länge"), told, "{notes}");
    }
    let fails = |bytes: &[u8], word: &str| {
        let why = dir.with(bytes, Options::default()).err().unwrap();
        assert!(why.contains("t.csv") && why.contains(word), "{why}");
    };
    fails(&utf16(u16::to_le_bytes)[2..], "UTF-8");
    fails(&utf16(u16::to_le_bytes)[..41], "UTF-16LE");
}

#[test]
fn numbers_have_one_decimal_sign() {
    let dir = Dir::new();
    for text in [four("a;b\n", ";"), four("a\tb\n", "\t"), four("", ";")] {
        let (_, rows, notes) = dir.read(text.replace('.', ","));
        assert_eq!(rows, FOUR.map(Vec::from).to_vec());
        assert!(notes.contains("decimal comma: 1,5 is 1.5"), "{notes}");
    }
    assert!(dir.read(four("a;b\n", ";")).2.is_empty());
    let table = dir.partial("a;b\n-1,50;\n;2\n", &["a", "b"]);
    assert_eq!((table.values[0], table.texts.get(0), table.texts.get(3)), (-1.5, "-1.50", "2"));
    dir.fails("a;b\n1,5;2\n3;4.5\n", &["line 3, column b: 4.5 has another decimal sign than 1,5 in line 2"]);
    dir.fails("a;b\n1.234,5;2\n3;4\n", &["line 2, column a", "1.234,5", "thousands"]);
    dir.fails("a,b\n\"1,234\",2\n3,4\n", &["line 2, column a", "1,234", "thousands"]);
    dir.fails("a,b\n1 234,2\n3,4\n", &["thousands"]);
    dir.fails("a,b\n1\u{a0}234.5,2\n3,4\n", &["thousands"]);
    dir.fails("a,b\n\"1,5\",2\n3,4\n", &["decimal point"]);
    dir.fails("a\n1,5\n2,5\n", &["line 2: 2 cells", "decimal comma"]);
    dir.fails("0.1 0.2\n0.3 0.4\n", &["line 1", "commas between"]);
}

#[test]
fn ends_of_lines() {
    let dir = Dir::new();
    for text in [
        "a,b,\n1.5,2,\n3.5,4,\n5,6.5,\n7,8.5,\n",
        "a,b\n1.5,2,\n3.5,4,,\n5,6.5\n7,8.5,\n",
        "1.5,2,,\n3.5,4,,\n5,6.5,,\n7,8.5,,\n",
    ] {
        let (names, rows, notes) = dir.read(text);
        assert_eq!((names.len(), rows), (2, FOUR.map(Vec::from).to_vec()), "{text}");
        assert!(notes.contains("ends of lines"), "{notes}");
    }
    dir.fails("a,b,\n1,2,\n3,4,5\n", &["line 2, column 3", "empty"]);
    dir.fails("a,b\n1,2,7\n", &["line 2: 3 cells where the first line has 2"]);
    // a last column that is missing everywhere is none of these for a model that knows it
    assert_eq!(dir.partial("1,\n3,\n", &["1", "2"]).values.len(), 4);

    // a blank line is a missing cell where there is one column; at the end there is no row, and that is told
    for end in ["\n", "\r\n", "\r"] {
        let text = "a\n\n0.3\n\n\n-2\n".replace('\n', end);
        let table = dir.partial(&text, &["a"]);
        assert_eq!(
            table.values.iter().map(|v| v.is_nan()).collect::<Vec<_>>(),
            [true, false, true, true, false],
            "{end:?}"
        );
        assert!(table.notes.is_empty());
        dir.fails(&text, &["line 2, column a", "empty", "langevin impute"]);
        let table = dir.partial(&format!("{text}{end}"), &["a"]);
        assert!(
            table.values.len() == 5 && table.notes[0].contains("at the end, which are no rows: 1;"),
            "{:?}",
            table.notes
        );
        dir.fails(&format!("{end}a,b{end}{end}1,2{end}\"3{end}4\",5{end}{end}6,x{end}"), &["line 5, column a"]);
        dir.fails(&format!("{end}a,b{end}{end}1,2{end}{end}6,x{end}"), &["line 6, column b"]);
        assert_eq!(dir.read(format!("a,b{end}{end}1,2{end}{end}3,4{end}{end}")).1, [[1., 2.], [3., 4.]]);
    }
    let table = dir.partial("a\n\"\"\n1\nNaN\n  \n2", &["a"]);
    assert_eq!(table.values.iter().filter(|v| v.is_nan()).count(), 3);
}

#[test]
fn lines_that_begin_with_a_hash() {
    let dir = Dir::new();
    for text in
        [four("# made by us\n# 2024, May, 3\na,b\n", ","), four("# made by us\n# a,b\n", ","), four("#\na,b\n", ",")]
    {
        let (names, rows, notes) = dir.read(&text);
        assert_eq!((names, rows), (vec!["a".into(), "b".into()], FOUR.map(Vec::from).to_vec()), "{text}");
        assert!(notes.contains("#"), "{notes}");
    }
    assert_eq!(dir.read(four("#,#id\n", ",")).0, ["#", "#id"]);
}

/// Numbers are the same to the last bit when they come back from a file.
#[test]
fn moments_are_kept_exactly() {
    let constants = [8.3293e-19, 1.09708e30, 0.1 + 0.2, 7e-6, 5., -1e-300];
    let names = (0..7).map(|j| j.to_string()).collect();
    let columns = Columns {
        names,
        mean: constants.into_iter().chain([1.5]).collect(),
        std: [0.; 6].into_iter().chain([2.]).collect(),
    };
    let text = serde_json::to_string(&columns).unwrap();
    assert_eq!(serde_json::from_str::<Columns>(&text).unwrap(), columns, "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::from_value::<Columns>(value).unwrap(), columns);
    // as older versions wrote them
    let old: Columns = serde_json::from_str(r#"{"names":["a","b"],"mean":[10,0.5],"std":[2,0]}"#).unwrap();
    assert_eq!((old.mean, old.std), (vec![10., 0.5], vec![2., 0.]));
    let moments: Vec<f64> = (1..5000).map(|i| f64::from(i).sqrt() * 10f64.powi(i % 60 - 30)).collect();
    let text = serde_json::to_string(&moments).unwrap();
    assert_eq!(serde_json::from_str::<Vec<f64>>(&text).unwrap(), moments);
}

/// Lines that are longer than what is looked at to tell what a file is.
#[test]
fn very_wide_tables_are_read_whole() {
    let dir = Dir::new();
    let names: Vec<String> = (0..20_000).map(|i| format!("ENSG{i:011}")).collect();
    let row = |at: usize| (0..20_000).map(|i| ((i * at) % 7).to_string()).collect::<Vec<_>>().join(",");
    for end in ["\n", "\r\n"] {
        let text = [names.join(","), row(1), row(2), row(3), String::new()].join(end);
        let (found, rows, _) = dir.read(&text);
        assert!(found == names && rows.len() == 3 && rows[1][3] == 6., "{} {}", found.len(), rows.len());
    }
    let rows = [1, 2, 3].map(|k| (0..45_000).map(|i| format!("{}.25", i * k % 9)).collect::<Vec<_>>().join(","));
    assert_eq!(dir.read(rows.join("\n") + "\n").0.len(), 45_000);
}
