//! A part of what is asked of the host about one request, in the two ways in which it can be asked for.

/// Values that are asked for together.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    expression: String,
    property_paths: Vec<Vec<u8>>,
}

impl Stage {
    /// Whether there is nothing to ask for.
    pub fn is_empty(&self) -> bool {
        self.property_paths.is_empty()
    }

    /// How many values there are.
    pub fn slots(&self) -> usize {
        self.property_paths.len()
    }

    /// The CEL list that evaluates to all values in order. A missing value evaluates to an empty string.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The same values one by one: a NUL-separated property path for each.
    pub fn property_paths(&self) -> &[Vec<u8>] {
        &self.property_paths
    }

    /// Adds an attribute of Envoy's, by its name.
    pub(super) fn add_attribute(&mut self, name: &str) {
        match name.strip_prefix("request.headers.") {
            Some(header) => self.add_header("request", header),
            None => {
                let path = name.bytes().map(|byte| if byte == b'.' { 0 } else { byte }).collect();
                self.add(&format!("has({name})?{name}:\"\""), path);
            }
        }
    }

    /// Adds a header of the `request` or the `response`. Header names are tokens (the configuration saw to that), so they
    /// hold neither `"` nor `\`.
    pub(super) fn add_header(&mut self, side: &str, header: &str) {
        let term = format!("\"{header}\" in {side}.headers?{side}.headers[\"{header}\"]:\"\"");
        self.add(&term, [side.as_bytes(), b"\0headers\0", header.as_bytes()].concat());
    }

    fn add(&mut self, term: &str, path: Vec<u8>) {
        self.expression.pop();
        self.expression.push(if self.is_empty() { '[' } else { ',' });
        self.expression.push_str(term);
        self.expression.push(']');
        self.property_paths.push(path);
    }
}
