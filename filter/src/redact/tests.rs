//! What is told of each kind of value, and that secrets planted in all of them are in nothing that leaves the plugin.

use std::rc::Rc;

use super::*;
use crate::testing::config;

fn redactor(sections: &str) -> Redactor {
    let config = config(sections);
    Redactor::new(&config, &Rc::new(Routes::new(&config.routes).unwrap())).unwrap()
}

fn text(told: Cow<'_, [u8]>) -> String {
    String::from_utf8(told.into_owned()).unwrap()
}

#[test]
fn headers_that_are_urls_are_told_without_their_secrets() {
    let redactor = redactor("");
    for (value, expected) in [
        ("", ""),
        ("text/html; q=0.8, */*", "text/html; q=0.8, */*"),
        ("https://shop/cb?code=s3cret&state=1", "https://shop/cb?code=REDACTED&state=1"),
        ("/cb#access_token=s3cret&x", "/cb#access_token=REDACTED&x"),
        ("https://me:s3cret@shop/a@b?token=s3cret", "https://REDACTED@shop/a@b?token=REDACTED"),
        ("me@shop.example", "me@shop.example"),
        ("10.1.2.3", "10.1.2.3"),
    ] {
        assert_eq!(text(redactor.value("referer", value.as_bytes())), expected);
    }
}

#[test]
fn secret_headers_are_told_as_redacted_under_whatever_name() {
    let redactor = redactor(r#""redact":{"header_values":["X-Tenant","User-Agent","host","x-request-id"]}"#);
    for name in ["authorization", "cookie", "set-cookie", "x-tenant"] {
        assert_eq!(text(redactor.value(name, b"s3cret")), REDACTED);
    }
    assert_eq!(text(redactor.value("x-other", b"told")), "told");
    assert_eq!(text(redactor.user_agent(b"s3cret")), REDACTED);
    assert_eq!(text(redactor.request_id(b"s3cret")), REDACTED);
    assert_eq!(text(redactor.host(b"s3cret:80")), REDACTED);
    assert_eq!(text(redactor.host(b"")), "", "what is not there is not told as if it were");
}

#[test]
fn what_a_client_chose_is_told_without_secrets_too() {
    let redactor = redactor(r#""redact":{"query_params":["pin"]}"#);
    assert_eq!(
        text(redactor.user_agent(b"bot (+https://me:s3cret@a/?pin=1)")),
        "bot (+https://REDACTED@a/?pin=REDACTED"
    );
    assert_eq!(text(redactor.request_id(b"token=s3cret")), "token=REDACTED");
    assert_eq!(text(redactor.user_agent(br#"app {"token":"s3cret"}"#)), r#"app {"token":REDACTED"#);
    assert_eq!(text(redactor.host(b"me:s3@cret@shop:80")), "shop:80");
    assert_eq!(text(redactor.host(b"me:s3cret%40shop")), "shop");
}

#[test]
fn addresses_are_told_in_full_only_where_that_is_configured() {
    for (how, header, other) in [
        ("full", "10.1.2.3, 10.4.5.6", "seen 10.1.2.3"),
        ("truncated", "10.1.2.0, 10.4.5.0", "seen 10.1.2.0"),
        ("none", REDACTED, "seen REDACTED"),
    ] {
        let redactor = redactor(&format!(r#""logs":{{"client_address":"{how}"}}"#));
        assert_eq!(text(redactor.value("x-forwarded-for", b"10.1.2.3, 10.4.5.6")), header);
        assert_eq!(text(redactor.value("anything", b"seen 10.1.2.3")), other);
    }
}

#[test]
fn eight_bytes_at_once_miss_no_sign() {
    for len in 0..40 {
        let mut text = vec![b'a'; len];
        assert!(!may_hold_secrets(&text));
        for at in 0..len {
            for sign in *b"=@%\"'\\" {
                text[at] = sign;
                assert!(may_hold_secrets(&text), "{sign} at {at} of {len}");
            }
            text[at] = b'a';
        }
    }
    let others: Vec<u8> = (0..=255).filter(|byte| !b"=@\"\\$%&'".contains(byte)).collect();
    assert!(others.iter().all(|&byte| !may_hold_secrets(&[byte; 8])));
}

#[test]
fn a_secret_segment_does_not_hide_the_name_beside_it() {
    let mut redactor = redactor(r#""routes":["/reset/{token}"],"redact":{"path_params":["token"]}"#);
    assert_eq!(text(redactor.path(b"/reset/password")), "/reset/REDACTED");
    assert_eq!(text(redactor.text(b"password=hunter2")), "REDACTED=REDACTED");
    let referer = b"https://shop/reset/password?password=hunter2";
    assert_eq!(text(redactor.value("referer", referer)), "https://shop/reset/REDACTED?REDACTED=REDACTED");
}
