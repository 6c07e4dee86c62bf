//! Secrets with delimiters in them, and delimiters before them, each written in every way: as it is, percent-encoded, as JSON
//! escapes it, and each of these within the other. None of it is chosen by hand.

use super::{MARKER, Planted, answered_with, to, with};

/// How a delimiter may be written: how often it is percent-encoded, and how often JSON escapes it.
const DEPTHS: [(u8, u8); 6] = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1)];

/// `byte` as it is written at a depth.
fn written(byte: char, (percent, json): (u8, u8)) -> String {
    let escaped = if json > 0 { format!("\\u{:04x}", u32::from(byte)) } else { byte.to_string() };
    (0..percent).fold(escaped, |text, time| match (time, text.strip_prefix('\\')) {
        (0, Some(rest)) => format!("%5C{rest}"),
        (0, None) => format!("%{:02X}", u32::from(byte)),
        _ => text.replace('%', "%25"),
    })
}

/// Whether what is written so is a part of what a delimiter of the other depth has begun.
fn is_within((percent, json): (u8, u8), other: (u8, u8)) -> bool {
    percent > other.0 || json > other.1
}

pub(super) fn plant(all: &mut Vec<Planted>) {
    for sign in DEPTHS {
        for delimiter in DEPTHS {
            // What is no part of the value is somebody else's.
            let behind = |byte| {
                let rest = if is_within(delimiter, sign) { MARKER } else { "" };
                written(byte, delimiter) + rest
            };
            let is = written('=', sign);
            for (name, byte) in [("an ampersand", '&'), ("a number sign", '#')] {
                let value = format!("https://h/?token{is}{MARKER}{}", behind(byte));
                plant_everywhere(all, &format!("value with {name}"), &value);
            }
            let slash = written('/', sign);
            let colon = written(':', sign);
            for at in ["@".to_owned(), written('@', sign)] {
                let user_info = format!(
                    "me{colon}{MARKER}{}",
                    if is_within(delimiter, sign) { behind('/') } else { String::new() }
                );
                plant_everywhere(all, "user info", &format!("https:{slash}{slash}{user_info}{at}h"));
            }
        }
    }
}

/// A value in JSON and by itself, in headers of both sides and in a query.
fn plant_everywhere(all: &mut Vec<Planted>, what: &str, value: &str) {
    let mut plant = |place: &str, planted: Planted| {
        all.push(Planted {
            place: format!("{place}, {what}"),
            encoding: "with delimiters of all depths",
            ..planted
        });
    };
    plant("x-note, JSON", with("x-note", format!(r#"{{"next":"{value}"}}"#)));
    plant("referer", with("referer", value.to_owned()));
    plant("location", answered_with("location", value.to_owned()));
    // A number sign would end the query.
    plant("query", to(format!("/orders/7?next={}", value.replace('#', "%23"))));
}
