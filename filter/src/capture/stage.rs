//! A part of what is asked of the host about one request, in the ways in which it can be asked for.
//!
//! As measured in Envoy: all headers of a request in one call cost no more than one property, or two or three attributes in
//! a CEL list, and one of them by its name in a list costs more than all of them. And asking whether an attribute is
//! there costs a list nearly as much as the attribute itself, while a list fails as a whole for a single one that is not.
//! So headers are asked for together where there are some; a few other values one by one, many as a list. There are two
//! lists of them: one that asks only where a value is often missing, and for all that an upstream has at once, and one that
//! asks everywhere, for the few requests of which the first fails. The gRPC status is asked for where the content type says
//! that there is one.

use std::ops::Deref;

use super::field::Presence;

/// What the header map costs, in attributes of a list.
const HEADERS_COST: usize = 5;

/// What a header costs that a list looks for by its name, in attributes.
const NAMED_HEADER_COST: usize = 4;

/// So many values cost no more one by one than in a list, as measured beside the header map; each further one costs 2 µs more.
const MAX_SINGLE: usize = 6;

/// A header that is looked for in the request's header map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedHeader {
    /// In lower case, as the host has it.
    pub name: Vec<u8>,
    /// Whether all values of that name are wanted, joined by commas, or the first one only.
    pub is_joined: bool,
}

/// Headers that are looked for in one go.
#[derive(Debug, Clone, Default)]
pub struct WantedHeaders {
    headers: Vec<WantedHeader>,
    /// By the length of a name: which of the headers have names so long, as a bit for each. Most headers of a request are
    /// told by it to be none of them.
    by_len: Vec<u64>,
}

impl WantedHeaders {
    /// Looks for `headers`, of which there are 64 at most.
    pub fn new(headers: Vec<WantedHeader>) -> Self {
        let longest = headers.iter().map(|header| header.name.len()).max().unwrap_or(0);
        let mut by_len = vec![0; longest + 1];
        for (place, header) in headers.iter().enumerate().take(64) {
            if let Some(places) = by_len.get_mut(header.name.len()) {
                *places |= 1 << place;
            }
        }
        Self { headers, by_len }
    }

    /// Where that name is in the list, as a bit for each place: a header may be wanted for several reasons.
    pub(super) fn places(&self, name: &[u8]) -> Bits {
        let so_long = self.by_len.get(name.len()).copied().unwrap_or(0);
        let is_named = |&place: &usize| self.headers.get(place).is_some_and(|header| header.name == name);
        Bits(Bits(so_long).filter(is_named).fold(0, |places, place| places | 1 << place))
    }
}

/// The numbers of the bits that are set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits(pub(super) u64);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let place = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (place < 64).then_some(place)
    }
}

impl Deref for WantedHeaders {
    type Target = [WantedHeader];

    fn deref(&self) -> &[WantedHeader] {
        &self.headers
    }
}

/// One value, in each way in which it can be asked for.
#[derive(Debug, Clone)]
pub(super) struct Value {
    term: String,
    guarded_term: String,
    presence: Presence,
    /// Empty for an expression.
    pub(super) property_path: Vec<u8>,
    header: Option<WantedHeader>,
    expression: Option<NamedExpression>,
}

/// What a user wants evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedExpression {
    /// The attribute's name.
    pub name: String,
    /// As the user wrote it.
    pub text: String,
    /// The CEL expression for its value: one term of a list, or an expression by itself.
    pub term: String,
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
            term: name.to_owned(),
            guarded_term,
            presence,
            property_path: name.bytes().map(|byte| if byte == b'.' { 0 } else { byte }).collect(),
            header: header.map(|name| WantedHeader { name: name.into(), is_joined: false }),
            expression: None,
        }
    }

    /// What a user wants evaluated. It guards itself, and there is no other way to ask for it.
    pub(super) fn expression(expression: NamedExpression) -> Self {
        Self {
            term: expression.term.clone(),
            guarded_term: expression.term.clone(),
            presence: Presence::Optional,
            property_path: Vec::new(),
            header: None,
            expression: Some(expression),
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
    pub(super) fn header(side: &str, name: &str) -> Self {
        let term = format!("\"{name}\" in {side}.headers?{side}.headers[\"{name}\"]:\"\"");
        Self {
            guarded_term: term.clone(),
            term,
            presence: Presence::Optional,
            property_path: [side.as_bytes(), b"\0headers\0", name.as_bytes()].concat(),
            header: None,
            expression: None,
        }
    }

    /// How a list asks for it that knows so much of the upstream.
    fn term(&self, upstream: Upstream) -> &str {
        match (self.presence, upstream) {
            (Presence::Usual, _) | (Presence::OfUpstream, Upstream::Answered) => &self.term,
            (Presence::OfUpstream, Upstream::Absent) => "\"\"",
            (Presence::Optional, _) | (Presence::OfUpstream, Upstream::Unknown) => &self.guarded_term,
        }
    }

    /// Whether the request's header map has it.
    pub(super) fn is_in_headers(&self) -> bool {
        self.header.is_some()
    }

    /// What it is, if it can only be evaluated.
    pub(super) fn named(&self) -> Option<&NamedExpression> {
        self.expression.as_ref()
    }
}

/// Whether so many of the values are in the header map that it is worth asking for.
pub(super) fn are_headers_worth_it<'v>(values: impl Iterator<Item = &'v Value>) -> bool {
    let cost = |header: &WantedHeader| if header.is_joined { NAMED_HEADER_COST } else { 1 };
    values.filter_map(|value| value.header.as_ref()).map(cost).sum::<usize>() >= HEADERS_COST
}

/// What became of a request upstream, as far as a list has found out before it asks for more of it.
#[derive(Debug, Clone, Copy)]
enum Upstream {
    /// It has answered, so everything about it is there.
    Answered,
    /// Nothing is known.
    Unknown,
    /// There was no cluster to send the request to, so nothing about it is there.
    Absent,
}

/// A list of values. What is asked of an upstream is asked once for all of it where that spares asking for each.
fn list(values: &[Value]) -> String {
    let list = |upstream| {
        let terms: Vec<&str> = values.iter().map(|value| value.term(upstream)).collect();
        format!("[{}]", terms.join(","))
    };
    match values.iter().filter(|value| value.presence == Presence::OfUpstream).count() {
        0 | 1 => list(Upstream::Unknown),
        _ => {
            let [answered, unknown, absent] =
                [Upstream::Answered, Upstream::Unknown, Upstream::Absent].map(list);
            format!("has(response.backend_latency)?{answered}:has(xds.cluster_name)?{unknown}:{absent}")
        }
    }
}

/// The same list, which takes anything to be missing.
fn guarded_list(values: &[Value]) -> String {
    let terms: Vec<&str> = values.iter().map(|value| value.guarded_term.as_str()).collect();
    format!("[{}]", terms.join(","))
}

/// Values that are asked for together: those that are looked for in the header map, then the others, what users want
/// evaluated, at last the gRPC status.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    headers: WantedHeaders,
    expression: String,
    guarded_expression: String,
    property_paths: Vec<Vec<u8>>,
    named: Vec<NamedExpression>,
    content_type_slot: Option<usize>,
}

impl Stage {
    /// Asks for the values, of which the first `in_headers` are looked for in the header map. With the slot of the content
    /// type, which must have been asked for by then, the last value is the gRPC status.
    pub(super) fn new(values: &[Value], in_headers: usize, content_type_slot: Option<usize>) -> Self {
        let (headers, others) = values.split_at_checked(in_headers).unwrap_or((&[], values));
        let listed =
            others.get(..others.len() - usize::from(content_type_slot.is_some())).unwrap_or_default();
        let own_len = listed.iter().take_while(|value| value.expression.is_none()).count();
        let own = listed.get(..own_len).unwrap_or_default();
        // One call has to be made for what users want in any case; it brings the few as well.
        let is_list = own_len > MAX_SINGLE || listed.len() > own_len;
        let expression = |list: fn(&[Value]) -> String, values: &[Value]| {
            if is_list && !values.is_empty() { list(values) } else { String::new() }
        };
        Self {
            content_type_slot,
            headers: WantedHeaders::new(headers.iter().filter_map(|value| value.header.clone()).collect()),
            expression: expression(list, listed),
            guarded_expression: expression(guarded_list, own),
            property_paths: values
                .iter()
                .filter(|value| value.expression.is_none())
                .map(|value| value.property_path.clone())
                .collect(),
            named: listed.iter().filter_map(|value| value.expression.clone()).collect(),
        }
    }

    /// Whether there is nothing to ask for.
    pub fn is_empty(&self) -> bool {
        self.slots() == 0
    }

    /// How many values there are.
    pub fn slots(&self) -> usize {
        self.property_paths.len() + self.named.len()
    }

    /// What is looked for in the request's header map, which is asked for only if there is any of it.
    pub fn headers(&self) -> &WantedHeaders {
        &self.headers
    }

    /// How many values there are besides the headers, what users want evaluated, and the gRPC status.
    pub fn list_slots(&self) -> usize {
        self.property_paths.len() - self.headers.len() - usize::from(self.content_type_slot.is_some())
    }

    /// Where the last value is the gRPC status, which only gRPC calls have: the slot of the content type that tells them.
    pub fn content_type_slot(&self) -> Option<usize> {
        self.content_type_slot
    }

    /// The CEL list that evaluates to [`Stage::list_slots`] values and behind them those of [`Stage::named`], in order, an
    /// empty string for a missing one. It fails where something is missing that nearly every request has, or where one of
    /// the users' expressions fails. Empty where there are so few values that each is better
    /// asked for by itself.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The same list without what users want evaluated, which takes anything to be missing.
    pub fn guarded_expression(&self) -> &str {
        &self.guarded_expression
    }

    /// What users want evaluated.
    pub fn named(&self) -> &[NamedExpression] {
        &self.named
    }

    /// All values but those, one by one, in order: a NUL-separated property path for each.
    pub fn property_paths(&self) -> &[Vec<u8>] {
        &self.property_paths
    }
}

#[cfg(test)]
mod tests;
