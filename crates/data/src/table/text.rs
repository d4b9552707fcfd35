//! A table as text, as spreadsheets, pandas, polars and R write it: its encoding, separator, names and decimal sign.
//!
//! What a file leaves open is decided by what stands in it, and told in a line.

use super::{Columns, cut, cut_as_of_old, few};
use crate::files;
use candle_core::Result;
use csv::{ByteRecord, Reader, ReaderBuilder, StringRecord, Trim};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use std::collections::HashSet;
use std::path::Path;

/// Separators that are tried, the likeliest first.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Rows and bytes from the start of a file by which its separator and its names are told.
const ROWS: usize = 200;
const START: usize = 1 << 18;
/// What programs write for a missing cell beside those that are read as one: neither names nor numbers.
const NOTHING: [&str; 7] = ["null", "none", "n/a", "#n/a", "<na>", "nil", "-nan"];
/// What pandas calls a first column that has no name.
const UNNAMED: &str = "Unnamed: 0";

/// How a table is read.
#[derive(Default)]
pub(super) struct How<'a> {
    /// Whether the first line is names; `None` decides by what stands in it.
    pub header: Option<bool>,
    /// The columns that a model learnt, which the table must have.
    pub known: Option<&'a Columns>,
    /// Whether the user can say what the first line is.
    pub asked: bool,
    /// What to do about a missing cell, for the error. Without it cells may be missing, and all texts are kept.
    pub cure: Option<&'a str>,
}

/// A table in which cells may be missing, as it stands: nothing is scaled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Partial {
    /// From the header, or `1`, `2`, ... where there is none.
    pub names: Vec<String>,
    /// Row by row, [N, D]; NaN where a cell is empty, NaN or NA.
    pub values: Vec<f64>,
    /// The cells as they are written, [N, D]; but a decimal comma is a point.
    pub texts: Texts,
    /// The name and the cells of a first column that labels the rows, such as the index of pandas.
    pub labels: Option<(String, Texts)>,
    /// What the user should know of how the file was read.
    pub notes: Vec<String>,
}

/// Many short texts in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Texts {
    all: String,
    ends: Vec<usize>,
}

impl Texts {
    /// Text `i`, empty if there are fewer.
    pub fn get(&self, i: usize) -> &str {
        let end = |i: usize| self.ends.get(i).copied().unwrap_or(self.all.len());
        self.all.get(i.checked_sub(1).map_or(0, end)..end(i)).unwrap_or_default()
    }

    fn push(&mut self, text: &str) {
        self.all.push_str(text);
        self.ends.push(self.all.len());
    }
}

/// The table in a file.
pub(super) fn read(path: &Path, how: &How) -> Result<Partial> {
    let name = path.display().to_string();
    let bytes = files::read_up_to(&mut *files::open(path)?, files::MOST_BYTES, &name)?;
    let mut notes = vec![];
    let text = decoded(bytes, &name, &mut notes)?;
    let layout = Layout::of(&text, how, &mut notes);
    if let Some(known) = how.known.filter(|_| !layout.names.is_empty()) {
        known.places(&name, &layout.names)?;
    }
    let mut table = Rows { name: &name, text: &text, layout: &layout, how, decimal: None }.read()?;
    if table.values.is_empty() {
        bail!("{name} has no rows of numbers; give a table with at least two");
    }
    notes.append(&mut table.notes);
    let mut told = HashSet::new();
    notes.retain(|note| told.insert(note.clone()));
    Ok(Partial { notes, ..table })
}

/// The text that `bytes` are: UTF-16 where a mark says so, UTF-8 where they can be, and else windows-1252.
fn decoded(mut bytes: Vec<u8>, name: &str, notes: &mut Vec<String>) -> Result<String> {
    let (marked, mark) = Encoding::for_bom(&bytes).unwrap_or((UTF_8, 0));
    if marked != UTF_8 {
        return match marked.decode_without_bom_handling_and_without_replacement(&bytes[mark..]) {
            Some(text) => Ok(text.into_owned()),
            None => bail!("{name} is not whole {}, which its first bytes say it is; write it again", marked.name()),
        };
    }
    if bytes.contains(&0) {
        bail!("{name} is no text that can be read (it has bytes of 0); write the table as CSV in UTF-8");
    }
    bytes.drain(..mark);
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(e) => e.into_bytes(),
    };
    let (text, _) = WINDOWS_1252.decode_without_bom_handling(&bytes);
    let strange = text.lines().find(|line| !line.is_ascii()).unwrap_or_default();
    notes.push(format!(
        "the text is not UTF-8 and was read as windows-1252: {}; write it in UTF-8 if that is wrong",
        cut(strange.trim())
    ));
    Ok(text.into_owned())
}

/// What the start of a file says of the rest.
#[derive(Debug, Default)]
struct Layout {
    separator: u8,
    /// Where the rows begin, or the header.
    start: usize,
    header: bool,
    /// Of the first column, where that labels the rows.
    labels: Option<String>,
    /// Of the other columns.
    names: Vec<String>,
}

impl Layout {
    fn of(text: &str, how: &How, notes: &mut Vec<String>) -> Self {
        let (separator, mut start) = separator_line(text).unwrap_or((None, 0));
        let (mut comments, mut comment) = (0, "");
        while text[start..].starts_with('#') {
            comment = &text[start..start + line_end(&text[start..])];
            comments += 1;
            start += comment.len();
        }
        let separator = separator.unwrap_or_else(|| guessed(&text[start..], comment));
        let rows = sample(&text[start..], separator);
        let Some((first, below)) = rows.split_first() else { return Self::default() };
        let is_header = |line: &StringRecord, below: &[StringRecord], notes: &mut Vec<String>| {
            let (is, note) = how.header.map_or_else(|| header(line, below, separator, how.known), |is| (is, None));
            let (key, other) = if is { (false, "a row of numbers") } else { (true, "names") };
            let key = if how.asked { format!("; data.header={key} reads it as {other}") } else { String::new() };
            notes.extend(note.map(|note| note + &key));
            is
        };
        // numpy puts its comment mark before the names
        let commented =
            sample(comment, separator).pop().filter(|line| line.len() == first.len() && line.iter().any(is_word));
        let names_in_comment = commented.filter(|_| how.header != Some(false) && !first.iter().any(is_word));
        let left_out = comments - usize::from(names_in_comment.is_some());
        if left_out > 0 {
            notes.push(format!("lines that begin with # and are left out: {left_out}"));
        }
        let (header, heads, below) = match &names_in_comment {
            Some(line) => {
                notes.push("the names of the columns are in a line that begins with #".into());
                (false, Some(line), &rows[..])
            }
            None if is_header(first, below, notes) => (true, Some(first), below),
            None => (false, None, &rows[..]),
        };
        let mut layout = Self { separator, start, header, labels: None, names: vec![] };
        match heads {
            Some(heads) => layout.name(heads, below, how, notes),
            None => layout.count(below, how, notes),
        }
        layout
    }

    /// Takes the names from a header.
    fn name(&mut self, heads: &StringRecord, below: &[StringRecord], how: &How, notes: &mut Vec<String>) {
        let known = |name: &str| how.known.is_some_and(|known| known.names.iter().any(|own| own == name));
        let mut heads: Vec<String> = heads.iter().map(String::from).collect();
        if let Some(first) = heads.first_mut().filter(|first| !known(first))
            && let Some(name) = first.strip_prefix("# ")
        {
            *first = name.trim().into();
        }
        let empty = |j: usize| below.iter().all(|row| row.get(j).unwrap_or_default().is_empty());
        while heads.len() > 1 && heads.last().is_some_and(|last| last.is_empty()) && empty(heads.len() - 1) {
            heads.pop();
            notes.push(ENDS.into());
        }
        let labels = |first: &String| (first.is_empty() || first == UNNAMED) && !known(first);
        if heads.len() > 1 && heads.first().is_some_and(labels) {
            self.labels = Some(heads.remove(0));
            notes.push(LABELS.into());
        }
        let first = 1 + usize::from(self.labels.is_some());
        for (j, head) in heads.iter_mut().enumerate().filter(|(_, head)| head.is_empty() && !known("")) {
            *head = (j + first).to_string();
            notes.push(format!("column {head} has no name and is called {head}"));
        }
        if how.known.is_none() {
            notes.extend(doubles(&heads));
        }
        self.names = heads;
    }

    /// Names the columns by their places.
    fn count(&mut self, rows: &[StringRecord], how: &How, notes: &mut Vec<String>) {
        let mut width = rows.first().map_or(0, StringRecord::len);
        let least = how.known.map_or(1, |known| known.names.len());
        let empty = |j: usize| rows.iter().all(|row| row.get(j).unwrap_or_default().is_empty());
        while width > least.max(1) && empty(width - 1) {
            width -= 1;
            notes.push(ENDS.into());
        }
        self.names = (1..=width).map(|j| j.to_string()).collect();
    }

    /// The columns of a row, the labels among them.
    fn width(&self) -> usize {
        self.names.len() + usize::from(self.labels.is_some())
    }
}

/// What is to be said of names that several columns have.
fn doubles(names: &[String]) -> Option<String> {
    let (mut once, mut again) = (HashSet::new(), HashSet::new());
    let twice: Vec<String> = names.iter().filter(|name| !once.insert(*name) && again.insert(*name)).cloned().collect();
    (!twice.is_empty()).then(|| {
        format!(
            "more than one column is called {}: these are told apart by their order alone; give each a name of its own",
            few(&twice)
        )
    })
}

/// The note of a first column without a name.
const LABELS: &str = "the first column has no name: its cells are taken for labels of the rows and left out; give it a name if \
                      they are data";
/// The note of lines such as `1,2,`.
const ENDS: &str = "separators at the ends of lines are left out: they belong to no column";

/// The separator that a first line such as `sep=;` names, and where the table begins.
fn separator_line(text: &str) -> Option<(Option<u8>, usize)> {
    let end = line_end(text);
    let line = text[..end].trim_end_matches(['\n', '\r']).trim_matches('"');
    let (key, value) = line.split_at_checked(4)?;
    let mark = value.as_bytes();
    (key.eq_ignore_ascii_case("sep=") && mark.len() == 1 && mark[0].is_ascii()).then(|| (mark.first().copied(), end))
}

/// Where the line that `text` begins with ends, its end among it.
fn line_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) {
        Some(at) if bytes[at..].starts_with(b"\r\n") => at + 2,
        Some(at) => at + 1,
        None => bytes.len(),
    }
}

fn reader(text: &str, separator: u8) -> Reader<&[u8]> {
    let mut builder = ReaderBuilder::new();
    builder.has_headers(false).flexible(true).trim(Trim::All).delimiter(separator).from_reader(text.as_bytes())
}

/// The first rows of `text`.
fn sample(text: &str, separator: u8) -> Vec<StringRecord> {
    // the first lines are whole, however long they are
    let lines = text.match_indices(['\n', '\r']).nth(5).map_or(text.len(), |(at, _)| at + 1);
    let mut end = text.len().min(START.max(lines));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut rows: Vec<StringRecord> = reader(&text[..end], separator).into_records().flatten().take(ROWS).collect();
    if end < text.len() && rows.len() > 1 && rows.len() < ROWS {
        rows.pop(); // cut short
    }
    rows
}

/// The separator by which most rows are numbers, and as many of them as the first line has cells; of such the one that makes
/// the most columns.
fn guessed(text: &str, comment: &str) -> u8 {
    let fits = |separator: u8| {
        let mut rows = sample(text, separator);
        if rows.len() == 1 {
            rows.splice(0..0, sample(comment, separator).pop());
        }
        let Some((first, below)) = rows.split_first() else { return (0, 0) };
        let labels = usize::from(first.get(0).is_some_and(|head| head.is_empty() || head == UNNAMED));
        let decimal_comma = separator != b',' && first.len() > 1;
        let is_cell = |cell: &str| value(cell).is_some() || is_missing(cell) || decimal_comma && comma(cell).is_some();
        let fits = |row: &&StringRecord| {
            let rest = row.iter().skip(first.len()).all(str::is_empty);
            row.len() >= first.len() && rest && row.iter().skip(labels).all(is_cell)
        };
        (below.iter().filter(fits).count(), first.len())
    };
    // of equals the first
    SEPARATORS.into_iter().rev().max_by_key(|&separator| fits(separator)).unwrap_or(b',')
}

/// Whether the line above the rows `below` is names, and what the user should know of that.
fn header(
    first: &StringRecord,
    below: &[StringRecord],
    separator: u8,
    known: Option<&Columns>,
) -> (bool, Option<String>) {
    let is_number = |cell: &str| value(cell).is_some() || separator != b',' && comma(cell).is_some();
    let numbers: Vec<String> = first.iter().filter(|cell| is_number(cell)).map(String::from).collect();
    let nothing = |cell: &str| is_missing(cell) || NOTHING.contains(&cell.to_lowercase().as_str());
    let line = few(&first.iter().map(String::from).collect::<Vec<_>>());
    if let Some(known) = known {
        let cells: HashSet<String> = first.iter().flat_map(|cell| [cell.to_string(), cut_as_of_old(cell)]).collect();
        let all = known.names.iter().all(|name| cells.contains(name));
        if all && numbers.len() == first.len() {
            return (true, Some(format!("the first line ({line}) is read as the names that the model knows")));
        }
        return (all || first.iter().any(is_word), None);
    }
    if first.iter().any(is_word) {
        let note = format!("the first line is read as names, the numbers {} among them", few(&numbers));
        return (true, (!numbers.is_empty()).then_some(note));
    }
    if numbers.is_empty() {
        return (!first.iter().all(|cell| nothing(cell) || spaced(cell)), None); // names such as 1st and %
    }
    let names = are_labels(first, below, separator);
    let note = match names {
        true => Some(format!("the first line ({line}) is read as names")),
        false if could_be_names(first) => Some(format!("the first line ({line}) is read as a row of numbers")),
        false => None,
    };
    (names, note)
}

/// Whether numbers could be names: whole ones that differ, or such as rise.
fn could_be_names(first: &StringRecord) -> bool {
    let numbers: Option<Vec<f64>> = first.iter().map(value).collect();
    let mut cells = HashSet::new();
    let differ = first.iter().all(|cell| is_whole(cell) && cells.insert(cell));
    differ || numbers.is_some_and(|numbers| numbers.windows(2).all(|pair| pair[0] < pair[1]))
}

/// Whether a cell is a whole number as it is written.
fn is_whole(cell: &str) -> bool {
    cell.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b'+')
}

/// Whether a line of numbers is more likely names, such as years, than one more row: they rise, and each is either a whole
/// number above numbers that are not, or far from all below it; or they number the columns beside an index.
fn are_labels(first: &StringRecord, below: &[StringRecord], separator: u8) -> bool {
    const FEWEST: usize = 3;
    let read = |cell: &str| value(cell).or_else(|| comma(cell).filter(|_| separator != b','));
    let index = first.len() > 1
        && first.get(0).is_some_and(str::is_empty)
        && below.iter().all(|row| row.get(0).is_some_and(|cell| !is_missing(cell)));
    let heads: Option<Vec<f64>> = first.iter().skip(usize::from(index)).map(read).collect();
    let Some(heads) = heads.filter(|heads| heads.windows(2).all(|pair| pair[0] < pair[1])) else { return false };
    if index {
        return true;
    }
    let apart = |(j, &head): (usize, &f64)| {
        let cells: Vec<(&str, f64)> =
            below.iter().filter_map(|row| row.get(j)).filter_map(|cell| Some((cell, read(cell)?))).collect();
        if cells.len() < FEWEST {
            return false;
        }
        let low = cells.iter().map(|cell| cell.1).fold(f64::INFINITY, f64::min);
        let high = cells.iter().map(|cell| cell.1).fold(f64::NEG_INFINITY, f64::max);
        let wholes = cells.iter().filter(|cell| is_whole(cell.0)).count();
        let far = head < low - (high - low) || head > high + (high - low);
        far || first.get(j).is_some_and(is_whole) && 10 * wholes <= cells.len()
    };
    heads.len() > 1 && heads.iter().enumerate().all(apart)
}

/// Whether a cell can only be a name: it has a letter, is no number, and does not begin as one.
fn is_word(cell: &str) -> bool {
    let plain = cell.trim_start_matches(['-', '+', '.', ',']);
    let letters = cell.chars().any(char::is_alphabetic) && !plain.starts_with(|c: char| c.is_ascii_digit());
    letters && value(cell).is_none() && !is_missing(cell) && !NOTHING.contains(&cell.to_lowercase().as_str())
}

fn is_missing(cell: &str) -> bool {
    cell.is_empty() || cell.eq_ignore_ascii_case("nan") || cell.eq_ignore_ascii_case("na")
}

/// A finite number with a decimal point or none.
fn value(cell: &str) -> Option<f64> {
    cell.parse().ok().filter(|value: &f64| value.is_finite())
}

/// A finite number with a decimal comma.
fn comma(cell: &str) -> Option<f64> {
    let (whole, part) =
        cell.split_once(',').filter(|(whole, part)| !whole.contains('.') && !part.contains([',', '.']))?;
    value(&format!("{whole}.{part}"))
}

/// The rows of a table, read one after the other.
struct Rows<'a> {
    name: &'a str,
    text: &'a str,
    layout: &'a Layout,
    how: &'a How<'a>,
    /// The first number with a decimal sign, and where its row begins.
    decimal: Option<(String, usize)>,
}

impl Rows<'_> {
    fn read(&mut self) -> Result<Partial> {
        let Layout { separator, start, header, labels, names } = self.layout;
        let mut table = Partial { names: names.clone(), ..Partial::default() };
        table.labels = labels.clone().map(|name| (name, Texts::default()));
        let one = self.layout.width() == 1; // then a blank line is a row, and its cell is missing
        let mut reader = reader(&self.text[*start..], *separator);
        let (mut record, mut end, mut ragged, mut first) = (ByteRecord::new(), *start, false, *header);
        let (mut started, missing) = (false, ByteRecord::from(vec![""]));
        loop {
            match reader.read_byte_record(&mut record) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => bail!("{} cannot be read as CSV: {e}", self.name),
            }
            let mut at = self.after(end);
            while let Some(next) = self.blank(at) {
                if one && started {
                    self.row(&mut table, &missing, at)?;
                }
                at = next;
            }
            started = true;
            end = start + reader.position().byte() as usize;
            if std::mem::take(&mut first) {
                continue;
            }
            ragged |= record.len() > self.layout.width();
            self.row(&mut table, &record, at)?;
        }
        let lines = std::iter::successors(Some(self.after(end)), |&at| self.blank(at));
        let blank = if one { lines.count() - 1 } else { 0 };
        if blank > 0 {
            table.notes.push(format!(
                "blank lines at the end, which are no rows: {blank}; a missing cell there is written as NaN"
            ));
        }
        if ragged {
            table.notes.push(ENDS.into());
        }
        if let Some((text, _)) = self.decimal.take().filter(|(text, _)| text.contains(',')) {
            table.notes.push(format!("numbers have a decimal comma: {text} is {}", text.replacen(',', ".", 1)));
        }
        Ok(table)
    }

    /// Where the line begins that follows a row which ends at `end`: the reader leaves the second half of its end.
    fn after(&self, end: usize) -> usize {
        end + usize::from(self.text[..end].ends_with('\r') && self.text[end..].starts_with('\n'))
    }

    /// Where the line at `at` ends, if there is one and it is blank.
    fn blank(&self, at: usize) -> Option<usize> {
        let rest = &self.text[at..];
        rest.starts_with(['\n', '\r']).then(|| at + line_end(rest))
    }

    /// Adds the row that begins at byte `at`.
    fn row(&mut self, table: &mut Partial, record: &ByteRecord, at: usize) -> Result<()> {
        let (name, width) = (self.name, self.layout.width());
        let cells = |from: usize| record.iter().skip(from).map(|cell| std::str::from_utf8(cell).unwrap_or_default());
        if record.len() < width || cells(width).any(|cell| !cell.is_empty()) {
            let hint = match record.len() == width + 1 {
                true if width == 1 && self.layout.separator == b',' => {
                    " (numbers with a decimal comma go with another separator)"
                }
                true if self.layout.header => " (if the first cell of each labels the row, name that column, too)",
                _ => "",
            };
            bail!(
                "{name}, line {}: {} cells where the first line has {width}; make all rows equally long{hint}",
                self.line(at),
                record.len()
            );
        }
        let labels = usize::from(self.layout.labels.is_some());
        let keep = self.how.cure.is_none();
        if let Some((_, labels)) = table.labels.as_mut().filter(|_| keep) {
            labels.push(cells(0).next().unwrap_or_default());
        }
        for (cell, column) in cells(labels).zip(&self.layout.names) {
            let number = self.number(cell, column, at)?;
            table.values.push(number);
            match number {
                _ if !keep => {}
                _ if cell.contains(',') => table.texts.push(&cell.replacen(',', ".", 1)),
                _ => table.texts.push(cell),
            }
        }
        Ok(())
    }

    /// The number in a cell of the row at byte `at`; NaN if it is missing and may be.
    fn number(&mut self, cell: &str, column: &str, at: usize) -> Result<f64> {
        let name = self.name;
        let with_comma = self.layout.separator != b',' && cell.contains(',');
        if let Some(number) = if with_comma { comma(cell) } else { value(cell) } {
            if self.layout.separator != b',' && cell.contains([',', '.']) {
                self.decimal_sign(cell, column, at)?;
            }
            return Ok(number);
        }
        match (is_missing(cell), self.how.cure) {
            (true, None) => Ok(f64::NAN),
            (true, Some(cure)) => {
                let what = if cell.is_empty() { "empty" } else { cell };
                bail!("{name}, line {}, column {}: the cell is {what}; {cure}", self.line(at), cut(column))
            }
            _ => {
                let cure = match cell {
                    _ if grouped(cell) => "; write numbers without separators of thousands",
                    _ if comma(cell).is_some() => "; write numbers with a decimal point",
                    _ if spaced(cell) => "; put commas between the columns",
                    _ if at == self.layout.start && self.how.asked => {
                        "; data.header=true reads the first line as names"
                    }
                    _ => "",
                };
                bail!(
                    "{name}, line {}, column {}: {:?} is not a finite number{cure}",
                    self.line(at),
                    cut(column),
                    cut(cell)
                )
            }
        }
    }

    /// All numbers have the decimal sign of the first that has one.
    fn decimal_sign(&mut self, cell: &str, column: &str, at: usize) -> Result<()> {
        let Some((first, row)) = &self.decimal else {
            self.decimal = Some((cell.into(), at));
            return Ok(());
        };
        if first.contains(',') == cell.contains(',') {
            return Ok(());
        }
        bail!(
            "{}, line {}, column {}: {cell} has another decimal sign than {first} in line {}; write all numbers alike",
            self.name,
            self.line(at),
            cut(column),
            self.line(*row)
        )
    }

    /// The number of the line that begins at byte `at`.
    fn line(&self, at: usize) -> usize {
        let next = |&at: &usize| Some(at + line_end(&self.text[at..]));
        1 + std::iter::successors(Some(0), next).take_while(|&line| line < at).count()
    }
}

/// Whether a cell is numbers with blanks between them.
fn spaced(cell: &str) -> bool {
    let parts = || cell.split_whitespace();
    parts().count() > 1 && parts().all(|part| value(part).is_some())
}

/// Whether a cell is a number with separators of thousands.
fn grouped(cell: &str) -> bool {
    let marks = [',', '.', ' ', '\u{a0}', '\u{202f}', '\'', '\u{2019}', '_'];
    let digits = cell.trim_start_matches(['-', '+']);
    let groups: Vec<&str> = digits.split(marks).collect();
    groups.len() > 1
        && groups.iter().all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()))
        && groups[1..].iter().any(|group| group.len() == 3)
}
