//! Writes the small page for people: text, tables and links; no scripts, nothing from elsewhere.

use core::fmt::{self, Display, Write};

use crate::text::Escaped;

/// `value` as text or as an attribute in double quotes.
pub fn escaped(value: &dyn Display) -> impl Display + '_ {
    Escaped(value, escape)
}

fn escape(c: char, out: &mut dyn Write) -> Option<fmt::Result> {
    match c {
        '&' => Some(out.write_str("&amp;")),
        '<' => Some(out.write_str("&lt;")),
        '>' => Some(out.write_str("&gt;")),
        '"' => Some(out.write_str("&quot;")),
        '\'' => Some(out.write_str("&#39;")),
        _ => None,
    }
}

/// Legible in light and dark, on paper and on a telephone.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}\
div{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .75rem;border-bottom:1px solid #8888;text-align:right}\
th:first-child,td:first-child{text-align:left}";

/// A page that is being written. [`Document::end`] closes it.
#[must_use]
pub struct Document<'w> {
    out: &'w mut dyn Write,
}

impl<'w> Document<'w> {
    /// Begins a page with its title.
    pub fn begin(out: &'w mut dyn Write, title: &dyn Display) -> Result<Self, fmt::Error> {
        let title = escaped(title);
        write!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        )?;
        Ok(Self { out })
    }

    /// A heading.
    pub fn heading(&mut self, text: &dyn Display) -> fmt::Result {
        writeln!(self.out, "<h2>{}</h2>", escaped(text))
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &dyn Display) -> fmt::Result {
        writeln!(self.out, "<p>{}</p>", escaped(text))
    }

    /// A paragraph of links: where they lead and what they say.
    pub fn links(&mut self, links: &[(&str, &str)]) -> fmt::Result {
        self.out.write_str("<p>")?;
        for (index, (to, text)) in links.iter().enumerate() {
            let between = if index == 0 { "" } else { " · " };
            write!(self.out, "{between}<a href=\"{}\">{}</a>", escaped(to), escaped(text))?;
        }
        self.out.write_str("</p>\n")
    }

    /// A table with its header cells.
    pub fn table(
        &mut self,
        header: &[&str],
        fill: impl FnOnce(&mut Table<'_>) -> fmt::Result,
    ) -> fmt::Result {
        self.out.write_str("<div><table>\n<thead><tr>")?;
        header.iter().try_for_each(|cell| write!(self.out, "<th scope=\"col\">{}</th>", escaped(cell)))?;
        self.out.write_str("</tr></thead>\n<tbody>\n")?;
        fill(&mut Table { out: &mut *self.out })?;
        self.out.write_str("</tbody>\n</table></div>\n")
    }

    /// Ends the page.
    pub fn end(self) -> fmt::Result {
        self.out.write_str("</body>\n</html>\n")
    }
}

/// The rows of a table.
pub struct Table<'w> {
    out: &'w mut dyn Write,
}

impl Table<'_> {
    /// One row.
    pub fn row(&mut self, cells: &[&dyn Display]) -> fmt::Result {
        self.out.write_str("<tr>")?;
        cells.iter().try_for_each(|&cell| write!(self.out, "<td>{}</td>", escaped(cell)))?;
        self.out.write_str("</tr>\n")
    }
}
