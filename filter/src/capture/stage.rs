//! A part of what is asked of the host about one request, in the ways in which it can be asked for.
//!
//! As measured in Envoy: all headers of a request in one call cost no more than one property, or two or three attributes in
//! a CEL list, and one of them by its name in a list costs more than all of them. And asking whether an attribute is
//! there costs a list nearly as much as the attribute itself, while a list fails as a whole for a single one that is not.
//! So headers are asked for together where there are some, and there are two lists of the rest: one that asks only where a
//! value is often missing, and one that asks everywhere, for the few requests of which the first fails.

use super::field::Presence;

/// What the header map costs, in attributes of a list.
const HEADERS_COST: usize = 5;

/// What a header costs that a list looks for by its name, in attributes.
const NAMED_HEADER_COST: usize = 2;

/// A header that is looked for in the request's header map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedHeader {
    /// In lower case, as the host has it.
    pub name: Vec<u8>,
    /// Whether all values of that name are wanted, joined by commas, or the first one only.
    pub is_joined: bool,
}

/// One value, in each way in which it can be asked for.
#[derive(Debug, Clone)]
pub(super) struct Value {
    term: String,
    guarded_term: String,
    property_path: Vec<u8>,
    header: Option<WantedHeader>,
}

impl Value {
    /// An attribute of Envoy's, by its name.
    pub(super) fn attribute(name: &str, presence: Presence) -> Self {
        if let Some(header) = name.strip_prefix("request.headers.") {
            return Self::request_header(header);
        }
        let guarded_term = format!("has({name})?{name}:\"\"");
        let header = match name {
            "request.method" => Some(":method"),
            "request.path" => Some(":path"),
            "request.scheme" => Some(":scheme"),
            "request.host" => Some(":authority"),
            "request.useragent" => Some("user-agent"),
            "request.id" => Some("x-request-id"),
            _ => None,
        };
        Self {
            term: if presence == Presence::Usual { name.to_owned() } else { guarded_term.clone() },
            guarded_term,
            property_path: name.bytes().map(|byte| if byte == b'.' { 0 } else { byte }).collect(),
            header: header.map(|name| WantedHeader { name: name.into(), is_joined: false }),
        }
    }

    /// A request header.
    pub(super) fn request_header(name: &str) -> Self {
        let header = WantedHeader { name: name.into(), is_joined: true };
        Self { header: Some(header), ..Self::header("request", name) }
    }

    /// A response header. There are never so many of them wanted that their whole map would be worth it.
    pub(super) fn response_header(name: &str) -> Self {
        Self::header("response", name)
    }

    /// Header names are tokens (the configuration saw to that), so they hold neither `"` nor `\`.
    fn header(side: &str, name: &str) -> Self {
        let term = format!("\"{name}\" in {side}.headers?{side}.headers[\"{name}\"]:\"\"");
        Self {
            guarded_term: term.clone(),
            term,
            property_path: [side.as_bytes(), b"\0headers\0", name.as_bytes()].concat(),
            header: None,
        }
    }

    /// Whether the request's header map has it.
    pub(super) fn is_in_headers(&self) -> bool {
        self.header.is_some()
    }
}

/// Whether so many of the values are in the header map that it is worth asking for.
pub(super) fn are_headers_worth_it<'v>(values: impl Iterator<Item = &'v Value>) -> bool {
    let cost = |header: &WantedHeader| if header.is_joined { NAMED_HEADER_COST } else { 1 };
    values.filter_map(|value| value.header.as_ref()).map(cost).sum::<usize>() >= HEADERS_COST
}

/// Values that are asked for together: those that are looked for in the header map, then those of the list.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    headers: Vec<WantedHeader>,
    expression: String,
    guarded_expression: String,
    property_paths: Vec<Vec<u8>>,
}

impl Stage {
    /// Asks for the values, of which the first `in_headers` are looked for in the header map.
    pub(super) fn new(values: &[Value], in_headers: usize) -> Self {
        let (headers, listed) = values.split_at_checked(in_headers).unwrap_or((&[], values));
        let list = |term: fn(&Value) -> &str| {
            let terms: Vec<&str> = listed.iter().map(term).collect();
            if terms.is_empty() { String::new() } else { format!("[{}]", terms.join(",")) }
        };
        Self {
            headers: headers.iter().filter_map(|value| value.header.clone()).collect(),
            expression: list(|value| &value.term),
            guarded_expression: list(|value| &value.guarded_term),
            property_paths: values.iter().map(|value| value.property_path.clone()).collect(),
        }
    }

    /// Whether there is nothing to ask for.
    pub fn is_empty(&self) -> bool {
        self.property_paths.is_empty()
    }

    /// How many values there are.
    pub fn slots(&self) -> usize {
        self.property_paths.len()
    }

    /// What is looked for in the request's header map, which is asked for only if there is any of it.
    pub fn headers(&self) -> &[WantedHeader] {
        &self.headers
    }

    /// How many values the lists have.
    pub fn list_slots(&self) -> usize {
        self.slots() - self.headers.len()
    }

    /// The CEL list that evaluates to all values besides the headers, in order, an empty string for a missing one. It fails
    /// where something is missing that nearly every request has. Empty where there is nothing to list.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The same list, which takes anything to be missing.
    pub fn guarded_expression(&self) -> &str {
        &self.guarded_expression
    }

    /// All values one by one, headers first: a NUL-separated property path for each.
    pub fn property_paths(&self) -> &[Vec<u8>] {
        &self.property_paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Vec<Value> {
        vec![
            Value::attribute("request.method", Presence::Usual),
            Value::attribute("request.id", Presence::Optional),
            Value::attribute("request.headers.traceparent", Presence::Optional),
            Value::attribute("response.code", Presence::Usual),
            Value::attribute("upstream.address", Presence::Optional),
        ]
    }

    #[test]
    fn only_what_is_often_missing_is_guarded_at_first() {
        let stage = Stage::new(&values(), 0);
        let header = r#""traceparent" in request.headers?request.headers["traceparent"]:"""#;
        let upstream = r#"has(upstream.address)?upstream.address:"""#;
        assert_eq!(
            stage.expression(),
            format!(r#"[request.method,has(request.id)?request.id:"",{header},response.code,{upstream}]"#)
        );
        assert_eq!(
            stage.guarded_expression(),
            format!(
                r#"[has(request.method)?request.method:"",has(request.id)?request.id:"",{header},has(response.code)?response.code:"",{upstream}]"#
            )
        );
        assert_eq!((stage.headers(), stage.list_slots()), (&[][..], 5));
    }

    #[test]
    fn what_is_looked_for_in_the_headers_is_not_listed() {
        let stage = Stage::new(&values(), 3);
        let wanted = |name: &str, is_joined| WantedHeader { name: name.into(), is_joined };
        assert_eq!(
            stage.headers(),
            [wanted(":method", false), wanted("x-request-id", false), wanted("traceparent", true)]
        );
        assert_eq!(stage.expression(), r#"[response.code,has(upstream.address)?upstream.address:""]"#);
        assert_eq!((stage.slots(), stage.list_slots()), (5, 2));
        assert_eq!(stage.property_paths()[2], b"request\0headers\0traceparent");
        let only_headers = Stage::new(&values()[..3], 3);
        assert_eq!((only_headers.expression(), only_headers.list_slots()), ("", 0));
        assert!(Stage::new(&[], 0).is_empty());
    }
}
