//! A part of what is asked of the host about one request, in the ways in which it can be asked for.
//!
//! Asking whether an attribute is there costs a CEL list nearly as much as the attribute itself, and a list fails as a
//! whole for a single one that is not. So there are two lists: one that asks only where a value is often missing, and one
//! that asks everywhere, for the few requests of which the first fails.

use super::field::Presence;

/// Values that are asked for together.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    expression: String,
    guarded_expression: String,
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

    /// The CEL list that evaluates to all values in order, an empty string for a missing one. It fails where something is
    /// missing that nearly every request has.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The same list, which takes anything to be missing.
    pub fn guarded_expression(&self) -> &str {
        &self.guarded_expression
    }

    /// The same values one by one: a NUL-separated property path for each.
    pub fn property_paths(&self) -> &[Vec<u8>] {
        &self.property_paths
    }

    /// Adds an attribute of Envoy's, by its name.
    pub(super) fn add_attribute(&mut self, name: &str, presence: Presence) {
        if let Some(header) = name.strip_prefix("request.headers.") {
            return self.add_header("request", header);
        }
        let guarded = format!("has({name})?{name}:\"\"");
        let path = name.bytes().map(|byte| if byte == b'.' { 0 } else { byte }).collect();
        match presence {
            Presence::Usual => self.add(name, &guarded, path),
            Presence::Optional => self.add(&guarded, &guarded, path),
        }
    }

    /// Adds a header of the `request` or the `response`. Header names are tokens (the configuration saw to that), so they
    /// hold neither `"` nor `\`.
    pub(super) fn add_header(&mut self, side: &str, header: &str) {
        let term = format!("\"{header}\" in {side}.headers?{side}.headers[\"{header}\"]:\"\"");
        self.add(&term, &term, [side.as_bytes(), b"\0headers\0", header.as_bytes()].concat());
    }

    fn add(&mut self, term: &str, guarded_term: &str, path: Vec<u8>) {
        let is_first = self.is_empty();
        for (list, term) in [(&mut self.expression, term), (&mut self.guarded_expression, guarded_term)] {
            list.pop();
            list.push(if is_first { '[' } else { ',' });
            list.push_str(term);
            list.push(']');
        }
        self.property_paths.push(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_often_missing_is_asked_for_twice_at_first() {
        let mut stage = Stage::default();
        stage.add_attribute("request.method", Presence::Usual);
        stage.add_attribute("request.id", Presence::Optional);
        stage.add_attribute("request.headers.traceparent", Presence::Optional);
        let rest = r#"has(request.id)?request.id:"","traceparent" in request.headers?request.headers["traceparent"]:""]"#;
        assert_eq!(stage.expression(), format!("[request.method,{rest}"));
        assert_eq!(stage.guarded_expression(), format!(r#"[has(request.method)?request.method:"",{rest}"#));
        assert_eq!(
            stage.property_paths(),
            [&b"request\0method"[..], b"request\0id", b"request\0headers\0traceparent"]
        );
    }
}
