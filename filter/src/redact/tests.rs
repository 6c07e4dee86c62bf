//! What is told of each kind of value, and that secrets planted in all of them are in nothing that leaves the plugin.

use std::sync::Arc;

use super::*;
use crate::testing::config;

fn redactor(sections: &str) -> Redactor {
    let config = config(sections);
    Redactor::new(&config, &Arc::new(Routes::new(&config.routes).unwrap()))
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
        assert_eq!(text(redactor.request_id(b"seen 10.1.2.3")), other);
    }
}

#[test]
fn what_has_no_sign_of_a_secret_is_not_looked_into() {
    for sign in *b"=@%\"'\\" {
        assert!(may_hold_secrets(&[b'a', sign, b'b']));
    }
    assert!(!may_hold_secrets(b"/orders/7-a_b.c~d"));
    assert!(!may_hold_secrets(b"Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/119.0"));
    assert!(!may_hold_secrets(b""));
}

#[test]
fn what_one_kind_of_secret_hides_is_no_other_kinds_loss() {
    let mut redactor = redactor(
        r#""routes":["/reset/{token}","/proxy/{*rest}"],"redact":{"path_params":["token"]},"logs":{"client_address":"truncated"}"#,
    );
    for (path, expected) in [
        ("/reset/s3cret;token=x", "/reset/REDACTED"),
        ("/%72eset/s3cret", "/reset/REDACTED"),
        // An encoded path that holds something else is told by nobody.
        ("/%72eset/me:s3cret@h", "REDACTED"),
        ("/proxy//https:/me:s3cret@h", "/proxy//https:/REDACTED@h"),
        ("/proxy/https:%2F%2Fme:s3%252Fcret@h", "/proxy/https:%2F%2FREDACTED@h"),
    ] {
        assert_eq!(text(redactor.path(path.as_bytes())), expected);
    }
    redactor.path(b"/reset/me:s3cret@h");
    for (value, expected) in [
        ("https://me:s3cret@h/", "https://REDACTED/"),
        ("https://me:/reset/s3cret@h", "https://me:/reset/REDACTED"),
        ("\"token\":10.1.2.3-s3cret", "\"token\"REDACTED"),
    ] {
        assert_eq!(text(redactor.value("x-note", value.as_bytes())), expected);
    }
}

#[test]
fn a_secret_segment_is_not_told_as_a_part_of_the_host() {
    let mut redactor = redactor(r#""routes":["/reset/{token}"],"redact":{"path_params":["token"]}"#);
    redactor.path(b"/reset/S3cret");
    assert_eq!(text(redactor.host(b"s3cret.shop:80")), "REDACTED.shop:80");
    assert_eq!(text(redactor.host(b"me@s3%63ret.shop")), "REDACTED.shop");
}

#[test]
fn a_secret_segment_does_not_hide_the_name_beside_it() {
    let mut redactor = redactor(r#""routes":["/reset/{token}"],"redact":{"path_params":["token"]}"#);
    assert_eq!(text(redactor.path(b"/reset/password")), "/reset/REDACTED");
    assert_eq!(text(redactor.text(b"password=hunter2")), "REDACTED=REDACTED");
    let referer = b"https://shop/reset/password?password=hunter2";
    assert_eq!(text(redactor.value("referer", referer)), "https://shop/reset/REDACTED?REDACTED=REDACTED");
}
