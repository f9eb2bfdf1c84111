//! xl configurations (xl.cfg(5)): read, changed in places, written again. The grammar is that of
//! `tools/libs/util/libxlu_cfg_{l.l,y.y}`; the tests' verdicts are those of Debian's libxlutil 4.17.

use std::fmt;

/// Lists in lists, at most; xl has two.
const DEPTH: u32 = 8;

/// What a setting says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    /// In quotes.
    Text(String),
    /// Digits, as they stand.
    Number(String),
    /// In brackets.
    List(Vec<Value>),
}

impl Value {
    /// The text of a text.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(digits) => f.write_str(digits),
            Self::Text(text) => {
                f.write_str("\"")?;
                for letter in text.chars() {
                    match letter {
                        '"' | '\\' => write!(f, "\\{letter}")?,
                        '\n' => f.write_str("\\n")?,
                        '\r' => f.write_str("\\r")?,
                        letter => write!(f, "{letter}")?,
                    }
                }
                f.write_str("\"")
            }
            Self::List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{value}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// Settings in the order in which they stand. What was said twice stands as the last said; `+=` is carried out.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Config {
    settings: Vec<(String, Value)>,
}

impl Config {
    /// Reads a configuration; the error says in which line it makes no sense.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { text, at: 0, depth: 0 };
        let mut config = Self::default();
        loop {
            reader.blank(true);
            if reader.rest().is_empty() {
                return Ok(config);
            }
            let (key, append, value) =
                reader.setting().map_err(|why| format!("line {}: {why}", reader.line()))?;
            match (append, config.get(key).cloned(), value) {
                (true, Some(Value::List(mut before)), Value::List(more)) => {
                    before.extend(more);
                    config.set(key, Value::List(before));
                }
                (true, Some(Value::Text(before)), Value::Text(more)) => {
                    config.set(key, Value::Text(before + &more));
                }
                (true, Some(_), _) => {
                    return Err(format!("line {}: += of another kind of value", reader.line()));
                }
                (_, _, value) => config.set(key, value),
            }
        }
    }

    /// What a setting says.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.settings.iter().find(|(other, _)| other == key).map(|(_, value)| value)
    }

    /// The same where it is a text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    /// The texts of a list; none where there is no such list.
    pub(crate) fn list(&self, key: &str) -> impl Iterator<Item = &str> {
        let values = match self.get(key) {
            Some(Value::List(values)) => values.as_slice(),
            _ => &[],
        };
        values.iter().filter_map(Value::text)
    }

    /// Says something else, or something new at the end.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        match self.settings.iter_mut().find(|(other, _)| other == key) {
            Some((_, place)) => *place = value,
            None => self.settings.push((key.to_owned(), value)),
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.iter().try_for_each(|(key, value)| writeln!(f, "{key} = {value}"))
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    /// Lists that are open.
    depth: u32,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn line(&self) -> usize {
        self.text[..self.at].matches('\n').count() + 1
    }

    /// Skips blanks and comments, with `lines` also what ends a setting.
    fn blank(&mut self, lines: bool) {
        loop {
            let rest = self.rest();
            let skipped = match rest.chars().next() {
                Some('#') => rest.find('\n').unwrap_or(rest.len()),
                Some('\n' | ';') if lines => 1,
                Some(' ' | '\t') => 1,
                _ => return,
            };
            self.at += skipped;
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn setting(&mut self) -> Result<(&'t str, bool, Value), String> {
        let rest = self.rest();
        let end =
            rest.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_' || letter == '.'));
        let key = &rest[..end.unwrap_or(rest.len())];
        if !key.starts_with(|letter: char| letter.is_ascii_alphabetic()) {
            return Err("a setting begins with its name".to_owned());
        }
        self.at += key.len();
        self.blank(false);
        let append = self.take("+=");
        if !append && !self.take("=") {
            return Err(format!("no = after {key}"));
        }
        self.blank(false);
        let value = self.value()?;
        self.blank(false);
        match self.rest().chars().next() {
            None | Some('\n' | ';') => Ok((key, append, value)),
            Some(letter) => Err(format!("{letter:?} after the value of {key}")),
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        let rest = self.rest();
        match rest.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                self.at += 1;
                self.quoted(quote).map(Value::Text)
            }
            Some('0'..='9') => {
                let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(rest.len());
                self.at += end;
                Ok(Value::Number(rest[..end].to_owned()))
            }
            Some('[') => {
                self.at += 1;
                self.depth += 1;
                if self.depth > DEPTH {
                    return Err("lists in lists in lists".to_owned());
                }
                let entries = self.entries();
                self.depth -= 1;
                entries.map(Value::List)
            }
            _ => Err("a value is a number, a text in quotes or a list in brackets".to_owned()),
        }
    }

    fn entries(&mut self) -> Result<Vec<Value>, String> {
        let mut values = Vec::new();
        loop {
            self.blank(true);
            if self.take("]") {
                return Ok(values);
            }
            values.push(self.value()?);
            self.blank(true);
            if !self.take(",") && !self.rest().starts_with(']') {
                return Err("a list has commas between its entries and ] behind them".to_owned());
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        loop {
            let mut letters = self.rest().chars();
            let letter =
                letters.next().filter(|letter| *letter != '\n').ok_or("a text has no end in its line")?;
            self.at += letter.len_utf8();
            if letter == quote {
                return Ok(text);
            }
            if letter != '\\' {
                text.push(letter);
                continue;
            }
            let escaped = letters.next().ok_or("a text ends with \\")?;
            self.at += escaped.len_utf8();
            // xl's own reader takes numbers in octal and hexadecimal for wrong, whatever they are.
            text.push(match escaped {
                'a' => '\x07',
                'b' => '\x08',
                'f' => '\x0c',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\x0b',
                '\\' | '\'' | '"' => escaped,
                other => return Err(format!("\\{other} in a text: xl does not know it")),
            });
        }
    }
}
