//! CEL, as far as it takes to say where an expression is wrong, and whether it is a plain path.
//!
//! An expression's text comes in; an [`Expression`] goes to [`crate::capture`], which has the proxy compile it. The proxy
//! only says that it does not take one, so its syntax is read here too. What a name stands for, and which functions there
//! are, is the proxy's to know; message literals are the one thing of the language that is not read.
//! Source: the Common Expression Language's specification, "Syntax".

/// An expression whose syntax is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// As the user wrote it.
    pub text: String,
    /// Its steps, where it is nothing but names and keys: `request.headers["x-tenant"]`.
    pub path: Option<Vec<Step>>,
    /// All names and strings in it, in lower case: what its value may have been taken from.
    pub words: Vec<String>,
    /// Whether its value may have been taken from headers whose names are not among the words: it has a map of headers without a
    /// key, or a key that is computed, whatever it is one of.
    pub has_unnamed_headers: bool,
}

/// A step of a path; the first one is a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `.name`
    Name(String),
    /// `["key"]`, as it was written, with its quotes.
    Key(String),
}

impl Step {
    /// What it is called; `None` for a key that holds an escape, or anything but a plain string.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Key(literal) => {
                let quote = literal.chars().next().filter(|quote| ['"', '\''].contains(quote))?;
                let key = literal.strip_prefix(quote)?.strip_suffix(quote)?;
                (!key.contains(['\\', quote])).then_some(key)
            }
        }
    }
}

/// What is wrong with an expression, and at which byte of it, the first one being 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyntaxError {
    /// The byte at which it cannot go on.
    pub position: usize,
    /// What was looked for there.
    pub expected: &'static str,
}

impl Expression {
    /// Reads the whole of `text`.
    ///
    /// # Errors
    /// Where its syntax is wrong.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut reader = Reader::new(text, 0);
        reader.expression()?;
        if reader.peek().is_some() {
            return Err(reader.expected("an operator, or the end"));
        }
        let path = Reader::new(text, 0).path();
        let Reader { words, has_unnamed_headers, .. } = reader;
        Ok(Self { text: text.to_owned(), path, words, has_unnamed_headers })
    }
}

/// Those of two characters before those of one with which they begin.
const BINARY_OPERATORS: [&str; 13] = ["||", "&&", "<=", ">=", "==", "!=", "<", ">", "+", "-", "*", "/", "%"];

type Read<T = ()> = Result<T, SyntaxError>;

struct Reader<'t> {
    text: &'t str,
    at: usize,
    words: Vec<String>,
    has_unnamed_headers: bool,
    /// Whether what is read stands behind `in`, of which no more is told than whether something is in it.
    is_behind_in: bool,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str, at: usize) -> Self {
        Self { text, at, words: Vec::new(), has_unnamed_headers: false, is_behind_in: false }
    }

    /// `a ? b : c`, or `a` alone.
    fn expression(&mut self) -> Read {
        self.operands()?;
        if self.eat("?") {
            self.operands()?;
            self.require(":", "`:`")?;
            self.expression()?;
        }
        Ok(())
    }

    /// Which operator binds how closely does not matter to the syntax.
    fn operands(&mut self) -> Read {
        self.unary()?;
        while self.eat_binary_operator() {
            self.unary()?;
        }
        Ok(())
    }

    fn unary(&mut self) -> Read {
        let sign = if self.eat("!") { "!" } else { "-" };
        while self.eat(sign) {}
        self.member()
    }

    /// A primary, and what is taken of it: `.name`, `.name(…)`, `[…]`.
    fn member(&mut self) -> Read {
        self.primary()?;
        loop {
            if self.eat(".") {
                let name = self.name().ok_or_else(|| self.expected("a name"))?;
                self.notice_header_map(name);
                self.arguments()?;
            } else if self.eat("[") {
                let mut ahead = Self::new(self.text, self.at);
                let key = ahead.plain_key();
                // A name that is computed may be that of a map of headers, too.
                let is_behind_in = self.is_behind_in;
                self.has_unnamed_headers |= key.is_none() && !is_behind_in;
                self.expression()?;
                self.require("]", "`]`")?;
                self.is_behind_in = is_behind_in;
                self.notice_header_map(key.as_deref().unwrap_or_default());
            } else {
                return Ok(());
            }
        }
    }

    fn primary(&mut self) -> Read {
        if self.eat("(") {
            self.expression()?;
            return self.require(")", "`)`");
        }
        if self.eat("[") {
            return self.items("]", "`,` or `]`", Self::expression);
        }
        if self.eat("{") {
            return self.items("}", "`,` or `}`", |reader| {
                reader.expression()?;
                reader.require(":", "`:`")?;
                reader.expression()
            });
        }
        if self.string()?.is_some() || self.number()? {
            return Ok(());
        }
        self.eat(".");
        self.name().ok_or_else(|| self.expected("a value"))?;
        self.arguments()
    }

    /// Notices whether the map that has just been read is one of headers, and no key of it comes next with its name.
    fn notice_header_map(&mut self, name: &str) {
        let is_header_map = ["headers", "trailers"].contains(&name) && !self.is_behind_in;
        let mut ahead = Self::new(self.text, self.at);
        let names_a_key = if ahead.eat(".") {
            ahead.name().is_some() && ahead.peek() != Some(b'(')
        } else {
            ahead.eat("[") && ahead.plain_key().is_some()
        };
        self.has_unnamed_headers |= is_header_map && !names_a_key;
    }

    /// What is in brackets, up to the end of them, when it is a literal that stands for itself: a string, or a list's index.
    fn plain_key(&mut self) -> Option<String> {
        let is_literal = self.string().ok()?.is_some_and(|literal| !literal.contains('\\'));
        let is_key = (is_literal || self.number().ok()?) && self.eat("]");
        is_key.then(|| self.words.pop().unwrap_or_default())
    }

    /// `(…)`, where there are some.
    fn arguments(&mut self) -> Read {
        if self.eat("(") { self.items(")", "`,` or `)`", Self::expression) } else { Ok(()) }
    }

    /// Items with commas between them, and one behind the last if need be.
    fn items(&mut self, end: &str, expected: &'static str, item: fn(&mut Self) -> Read) -> Read {
        while !self.eat(end) {
            item(self)?;
            if !self.eat(",") {
                return self.require(end, expected);
            }
        }
        Ok(())
    }

    /// The whole text as a path, if it is one.
    fn path(&mut self) -> Option<Vec<Step>> {
        let mut steps = vec![Step::Name(self.name()?.to_owned())];
        loop {
            if self.eat(".") {
                steps.push(Step::Name(self.name()?.to_owned()));
            } else if self.eat("[") {
                steps.push(Step::Key(self.string().ok()??.to_owned()));
                self.require("]", "`]`").ok()?;
            } else {
                return self.peek().is_none().then_some(steps);
            }
        }
    }

    /// A name, of which `in` is none.
    fn name(&mut self) -> Option<&'t str> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        self.peek().filter(|&byte| is_part(byte) && !byte.is_ascii_digit())?;
        let rest = self.rest();
        let name = rest.get(..rest.bytes().take_while(|&byte| is_part(byte)).count())?;
        if name == "in" {
            return None;
        }
        self.at += name.len();
        self.words.push(name.to_ascii_lowercase());
        Some(name)
    }

    /// A string or bytes as it is written, if one begins here: `"…"`, `'''…'''`, with `r`, `b` or both before it.
    fn string(&mut self) -> Read<Option<&'t str>> {
        self.peek();
        let start = self.at;
        let rest = self.rest();
        let prefix = rest.bytes().take_while(|byte| b"rRbB".contains(byte)).count();
        let quoted = rest.get(prefix..).unwrap_or_default();
        let Some(quote) = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| quoted.starts_with(quote))
        else {
            return Ok(None);
        };
        let is_raw = rest.bytes().take(prefix).any(|byte| byte.eq_ignore_ascii_case(&b'r'));
        let body = quoted.get(quote.len()..).unwrap_or_default();
        let is_whole = prefix <= 2;
        let len = string_len(body, quote, is_raw).filter(|_| is_whole);
        let len = len.ok_or_else(|| self.expected("a string that ends"))?;
        self.words.push(body.get(..len).unwrap_or_default().to_ascii_lowercase());
        self.at += prefix + len + 2 * quote.len();
        Ok(self.text.get(start..self.at))
    }

    /// A number, if one begins here: `7`, `7u`, `0x1f`, `1.5`, `.5`, `1e-9`.
    fn number(&mut self) -> Read<bool> {
        self.peek();
        let start = self.at;
        let is_hexadecimal = self.eat_here(&["0x", "0X"]);
        let mut digits = self.digits(is_hexadecimal);
        let mut is_integer = true;
        if !is_hexadecimal {
            let before_point = self.at;
            if self.eat_here(&["."]) {
                match self.digits(false) {
                    0 => self.at = before_point,
                    more => (digits, is_integer) = (digits + more, false),
                }
            }
            if digits > 0 && self.eat_here(&["e", "E"]) {
                self.eat_here(&["+", "-"]);
                digits = self.digits(false);
                is_integer = false;
            }
        }
        if digits == 0 && self.at == start {
            return Ok(false);
        }
        if is_integer {
            self.eat_here(&["u", "U"]);
        }
        let goes_on = self.rest().bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if digits == 0 || goes_on { Err(self.expected("a number that ends")) } else { Ok(true) }
    }

    fn digits(&mut self, is_hexadecimal: bool) -> usize {
        let is_digit =
            |byte: &u8| if is_hexadecimal { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() };
        let count = self.rest().bytes().take_while(is_digit).count();
        self.at += count;
        count
    }

    fn eat_binary_operator(&mut self) -> bool {
        if BINARY_OPERATORS.iter().any(|operator| self.eat(operator)) {
            self.is_behind_in = false;
            return true;
        }
        let after = self
            .rest()
            .strip_prefix("in")
            .filter(|after| !after.starts_with(|char: char| char.is_ascii_alphanumeric() || char == '_'));
        self.at += if after.is_some() { 2 } else { 0 };
        self.is_behind_in = after.is_some();
        after.is_some()
    }

    fn require(&mut self, token: &str, expected: &'static str) -> Read {
        if self.eat(token) { Ok(()) } else { Err(self.expected(expected)) }
    }

    /// Takes `token` if it comes next, behind white space.
    fn eat(&mut self, token: &str) -> bool {
        self.peek();
        self.eat_here(&[token])
    }

    /// Takes one of `tokens` if it is right here.
    fn eat_here(&mut self, tokens: &[&str]) -> bool {
        let token = tokens.iter().find(|token| self.rest().starts_with(**token));
        self.at += token.map_or(0, |token| token.len());
        token.is_some()
    }

    /// The next byte that is neither white space nor in a comment.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let rest = self.rest();
            let byte = rest.bytes().next()?;
            self.at += match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b'\x0c' => 1,
                b'/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                _ => return Some(byte),
            };
        }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, expected: &'static str) -> SyntaxError {
        SyntaxError { position: self.at + 1, expected }
    }
}

/// How long a string is whose end `quote` is; `None` when it has none.
fn string_len(body: &str, quote: &str, is_raw: bool) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = body.get(at..)?;
        if rest.starts_with(quote) {
            return Some(at);
        }
        let mut chars = rest.chars();
        let char = chars.next()?;
        if quote.len() == 1 && ['\n', '\r'].contains(&char) {
            return None;
        }
        at += char.len_utf8();
        if char == '\\' && !is_raw {
            at += chars.next()?.len_utf8();
        }
    }
}

#[cfg(test)]
mod tests;
