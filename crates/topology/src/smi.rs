//! The text of `nvidia-smi topo -m`, in all the forms that it has had.
//!
//! Separated by tabs, or by blanks where a terminal has widened them; with an underlined header,
//! whose escapes may have lost their first byte; with one to three columns after the devices, of which
//! cells may be blank; with lines before the header; with or without legends. Rows and columns are
//! matched by name. Lines that begin with `#` are ours: notes of whoever keeps such a file.

use thiserror::Error;

use crate::matrix::{Contradiction, Matrix, Relation};
use crate::{CpuSet, Gpu, Nic};

/// A text that is no such matrix.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {message}")]
pub struct SmiError {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// What was wrong and what is expected.
    pub message: String,
}

/// A word of a line, with the column at which it begins.
#[derive(Clone, Copy, Debug)]
struct Word<'a> {
    text: &'a str,
    column: usize,
}

impl Relation {
    /// Reads a relation as `nvidia-smi` writes it.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "X" => Self::Same,
            "PIX" => Self::Switch,
            "PXB" => Self::Switches,
            "PHB" => Self::Bridge,
            "NODE" => Self::Node,
            // `SOC` until 2017.
            "SYS" | "SOC" => Self::System,
            text => Self::Nvlink(text.strip_prefix("NV")?.parse().ok().filter(|&n| n > 0)?),
        })
    }

    /// Returns the relation as `nvidia-smi` writes it.
    pub fn code(self) -> String {
        match self {
            Self::Same => "X".to_owned(),
            Self::Nvlink(lanes) => format!("NV{lanes}"),
            Self::Switch => "PIX".to_owned(),
            Self::Switches => "PXB".to_owned(),
            Self::Bridge => "PHB".to_owned(),
            Self::Node => "NODE".to_owned(),
            Self::System => "SYS".to_owned(),
        }
    }
}

/// Reads the text that `nvidia-smi topo -m` prints.
///
/// # Errors
/// The first place that is not as expected, or a pair of which rows and columns say different things.
pub(crate) fn read(text: &str) -> Result<Matrix, SmiError> {
    let lines: Vec<String> = text.lines().map(plain).collect();
    let at =
        |line: usize, column: usize, message: String| SmiError { line: line + 1, column, message };
    let Some(head) = lines.iter().position(|line| is_header(line)) else {
        let message = "expected the header of `nvidia-smi topo -m`: GPU0, GPU1, …, CPU Affinity";
        return Err(at(0, 1, message.to_owned()));
    };
    let header = words(&lines[head]);
    let affinity = header.iter().position(|word| word.text == "CPU").unwrap_or(header.len());
    let names: Vec<&str> = header[..affinity].iter().map(|word| word.text).collect();
    let columns = Columns::of(&header[affinity..]);
    let gpus = names.iter().take_while(|name| is_gpu(name)).count();
    if let Some(word) = header[gpus..affinity].iter().find(|word| is_gpu(word.text)) {
        let message = format!("{} after network cards: expected GPUs first", word.text);
        return Err(at(head, word.column, message));
    }
    for (place, word) in header[..affinity].iter().enumerate() {
        if names[..place].contains(&word.text) {
            return Err(at(head, word.column, format!("{} has two columns", word.text)));
        }
    }
    let mut rows: Vec<Option<(Vec<Relation>, Affinity)>> = vec![None; names.len()];
    let mut last = head;
    for (number, line) in lines.iter().enumerate().skip(head + 1) {
        let cells = words(line);
        let Some(first) = cells.first() else { continue };
        let Some(place) = names.iter().position(|name| *name == first.text) else {
            if is_gpu(first.text)
                || first.text.starts_with("NIC") && !first.text.starts_with("NIC ")
            {
                let legend = first.text == "NIC" || first.text.ends_with(':');
                if !legend {
                    let message = format!("{} has no column", first.text);
                    return Err(at(number, first.column, message));
                }
            }
            continue;
        };
        last = number;
        if rows[place].is_some() {
            return Err(at(number, first.column, format!("{} has two rows", first.text)));
        }
        let mut relations = Vec::with_capacity(names.len());
        for (cell, name) in names.iter().enumerate() {
            let Some(word) = cells.get(1 + cell) else {
                let message = format!("{} ends before its cell for {name}", first.text);
                return Err(at(number, line.chars().count() + 1, message));
            };
            let Some(relation) = Relation::parse(word.text) else {
                let message = format!(
                    "`{}` is no connection: expected X, NV and a number, PIX, PXB, PHB, NODE or SYS",
                    word.text
                );
                return Err(at(number, word.column, message));
            };
            if (relation == Relation::Same) != (cell == place) {
                let message = format!("{} to {name} is `{}`", first.text, word.text);
                return Err(at(number, word.column, message));
            }
            relations.push(relation);
        }
        let rest = after(line, names.len());
        let affinity = columns.read(&rest).map_err(|message| at(number, first.column, message))?;
        rows[place] = Some((relations, affinity));
    }
    let mut matrix = Matrix { gpus: Vec::new(), nics: Vec::new(), relations: Vec::new() };
    for (place, (row, name)) in rows.into_iter().zip(&names).enumerate() {
        let Some((relations, affinity)) = row else {
            return Err(at(
                last,
                1,
                format!("{name} has a column and no row: is the text cut off?"),
            ));
        };
        matrix.relations.push(relations);
        let index = || name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse();
        match place < gpus {
            true => matrix.gpus.push(Gpu {
                name: (*name).to_owned(),
                model: None,
                host: 0,
                index: index().unwrap_or(place as u32),
                numa: affinity.numa,
                cpus: affinity.cpus,
                bus_id: None,
                memory_bytes: None,
            }),
            false => matrix.nics.push(Nic { name: real_name(&lines, name), host: 0 }),
        }
    }
    matrix.check().map_err(|contradiction| {
        let Contradiction { of, .. } = &contradiction;
        let row = lines
            .iter()
            .skip(head + 1)
            .position(|line| words(line).first().is_some_and(|word| word.text == of));
        at(head + 1 + row.unwrap_or(0), 1, contradiction.to_string())
    })?;
    Ok(matrix)
}

/// Returns a line without its escapes, and nothing of a note.
fn plain(line: &str) -> String {
    if line.trim_start().starts_with('#') {
        return String::new();
    }
    let mut line = line.trim_end_matches(['\r', '\n']).to_owned();
    for escape in ["\u{1b}", "^["] {
        for code in ["[4m", "[0m", "[1m", "[m", "[24m"] {
            line = line.replace(&format!("{escape}{code}"), "");
        }
    }
    // The first byte of an escape is lost where it was pasted as text.
    line.replace("[4m", "").replace("[0m", "")
}

fn is_gpu(name: &str) -> bool {
    name.strip_prefix("GPU")
        .or(name.strip_prefix("MIG"))
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn is_header(line: &str) -> bool {
    let words = words(line);
    let first = words.first().is_some_and(|word| is_gpu(word.text));
    let second = words.get(1).is_none_or(|word| Relation::parse(word.text).is_none());
    let row = words.get(1).is_some_and(|word| Relation::parse(word.text).is_some());
    first && second && !row && words.iter().any(|word| word.text == "CPU" || is_gpu(word.text))
}

fn words(line: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut begin = None;
    for (place, c) in line.char_indices().chain([(line.len(), ' ')]) {
        match (c.is_whitespace(), begin) {
            (false, None) => begin = Some(place),
            (true, Some(from)) => {
                let column = line[..from].chars().count() + 1;
                words.push(Word { text: &line[from..place], column });
                begin = None;
            }
            _ => {}
        }
    }
    words
}

/// Returns what follows the name and so many cells, by tabs if there are any.
fn after(line: &str, cells: usize) -> Vec<String> {
    let by_tabs: Vec<&str> = line.split('\t').collect();
    // A header without its leading tab, or rows of blanks, are read by words.
    if by_tabs.len() > cells {
        return by_tabs[cells + 1..].iter().map(|cell| cell.trim().to_owned()).collect();
    }
    words(line).iter().skip(cells + 1).map(|word| word.text.to_owned()).collect()
}

/// Which columns follow the devices.
struct Columns {
    cpus: bool,
    numa: bool,
    id: bool,
}

#[derive(Clone, Debug, Default)]
struct Affinity {
    cpus: CpuSet,
    numa: Option<u32>,
}

impl Columns {
    fn of(header: &[Word<'_>]) -> Self {
        let has =
            |a: &str, b: &str| header.windows(2).any(|pair| pair[0].text == a && pair[1].text == b);
        Self { cpus: has("CPU", "Affinity"), numa: has("NUMA", "Affinity"), id: has("NUMA", "ID") }
    }

    /// Reads the cells of a row. A blank CPU cell is empty; the NUMA cell and the GPU's own NUMA
    /// number may stand one tab further than their heads.
    fn read(&self, cells: &[String]) -> Result<Affinity, String> {
        let filled: Vec<&String> = cells.iter().filter(|cell| !cell.is_empty()).collect();
        let expected = usize::from(self.cpus) + usize::from(self.numa) + usize::from(self.id);
        let first = cells.first().map_or("", |cell| cell.as_str());
        let whole = filled.len() == expected;
        // Of fewer words than columns, the first is the CPUs only if it stands first.
        let has_cpus = self.cpus && !first.is_empty() && (whole || !(self.id && filled.len() == 1));
        let cpus = match has_cpus && first != "N/A" {
            true => first.parse().map_err(|error| format!("{error}"))?,
            false => CpuSet::default(),
        };
        let mut rest = &filled[usize::from(has_cpus)..];
        if self.id && !rest.is_empty() {
            rest = &rest[..rest.len() - 1];
        }
        let numa = rest.first().filter(|_| self.numa).map(|cell| cell.as_str());
        let number = |text: &str| -> Result<u32, String> {
            let end = text.find(['-', ',']).unwrap_or(text.len());
            let wrong = |_| format!("NUMA affinity `{text}`: expected a number, a list or N/A");
            text[..end].parse().map_err(wrong)
        };
        let numa = numa.filter(|text| *text != "N/A").map(number).transpose()?;
        Ok(Affinity { cpus, numa })
    }
}

/// Returns what the legend of network cards says that a column stands for.
fn real_name(lines: &[String], name: &str) -> String {
    let legend = lines.iter().skip_while(|line| !line.trim().starts_with("NIC Legend"));
    let said = legend.filter_map(|line| line.trim().split_once(':'));
    let found = said
        .map(|(column, real)| (column.trim(), real.trim()))
        .find(|(column, real)| *column == name && !real.is_empty());
    found.map_or_else(|| name.to_owned(), |(_, real)| real.to_owned())
}
