//! ad hoc
use std::rc::Rc;
use std::time::Instant;
use offpath_benches::config;
use offpath_filter::redact::Redactor;
use offpath_filter::route::Routes;
fn main() {
    for (n, cfg) in [("params", r#"{"collector":{"cluster":"otlp"},"routes":["/reset/{token}","/a/{id}/{token}.pdf","/files/{*rest}","/{t}/reset/{token}"],"redact":{"path_params":["token"]}}"#),
        ("none", r#"{"collector":{"cluster":"otlp"},"logs":{"client_address":"truncated"}}"#)] {
        let config = config(cfg).unwrap();
        let routes = Rc::new(Routes::new(&config.routes).unwrap());
        let mut r = Redactor::new(&config, &routes).unwrap();
        let k = 60 * 1024;
        let rep = |s: &str| s.repeat(k / s.len());
        for (name, text) in [
            ("plain", rep("abcdefgh")), ("urls", rep("https://shop/a/b?x=1,")), ("slash-dash", rep("/-")), ("enc", rep("%2F-")),
            ("enc3", rep("%25252F-")), ("pct", rep("%")), ("pct25", rep("%25")), ("bs", rep("\\")), ("bsu", rep("\\u005c")), ("slashes", rep("/")), ("mixed", rep("%2Fa%20b/-")),
            ("one path", "/".to_owned() + &rep("%252541")), ("eq", rep("a%20b=")), ("at", rep("a:b@")), ("addr", rep("1.")), ("colon", rep(":a")), ("segs", rep("tok%65")), ("quotes", rep("\": ")),
        ] {
            r.path(b"/reset/toke");
            let start = Instant::now();
            let mut len = 0;
            let n_times = 20;
            for _ in 0..n_times { r.path(b"/reset/toke"); len = r.value("referer", text.as_bytes()).len(); }
            println!("{n:8} {name:12} {:8.0} us  told {len}", start.elapsed().as_secs_f64() * 1e6 / n_times as f64);
        }
        // The same bytes as many values.
        for (name, text) in [("enc x60", "%2F-".repeat(256)), ("mixed x60", "%2Fa%20b/-".repeat(100)), ("urls x60", "https://shop/a/b?x=%2F,".repeat(45))] {
            let start = Instant::now();
            for _ in 0..20 { r.path(b"/reset/toke"); for _ in 0..60 { std::hint::black_box(r.value("referer", text.as_bytes())); } }
            println!("{n:8} {name:12} {:8.0} us", start.elapsed().as_secs_f64() * 1e6 / 20.0);
        }
        for (name, text) in [("path enc", "/".to_owned() + &rep("%252541")), ("path slash", rep("/-"))] {
            let start = Instant::now();
            for _ in 0..20 { std::hint::black_box(r.path(text.as_bytes())); }
            println!("{n:8} {name:12} {:8.0} us", start.elapsed().as_secs_f64() * 1e6 / 20.0);
        }
    }
}
