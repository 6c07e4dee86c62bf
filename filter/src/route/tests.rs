//! Which template wins, what no template matches, and what is refused.

use super::*;
use proptest::prelude::*;

fn routes(templates: &[&str]) -> Result<Routes, String> {
    let route = |template: &&str| config::Route {
        template: (*template).to_owned(),
        sample_ratio: None,
        keep_slower_than: None,
    };
    let routes: Vec<_> = templates.iter().map(route).collect();
    Routes::new(&routes).map_err(|error| error.to_string())
}

fn found<'r>(routes: &'r Routes, path: &str) -> Option<&'r str> {
    routes.find(path.as_bytes()).map(|found| found.template)
}

#[test]
fn the_most_specific_template_wins_whatever_the_order() {
    let mut templates = [
        "/",
        "/orders",
        "/orders/",
        "/orders/{id}",
        "/orders/latest",
        "/orders/{id}/items/{item}",
        "/orders/{id}.json",
        "/orders/{*rest}",
        "/{service}/health",
        "/files/{*path}",
        "/{*all}",
        "/{service}/v1/{*rest}",
        "/shop.Cart/{method}",
        "/shop.Cart/Watch",
    ];
    for _ in 0..2 {
        let routes = routes(&templates).unwrap();
        for (path, template) in [
            ("/", "/"),
            ("/orders", "/orders"),
            ("/orders/", "/orders/"),
            ("/orders/7", "/orders/{id}"),
            ("/orders/latest", "/orders/latest"),
            ("/orders/latest2", "/orders/{id}"),
            ("/orders/7.json", "/orders/{id}.json"),
            ("/orders/7/items/8", "/orders/{id}/items/{item}"),
            ("/orders/7/items", "/orders/{*rest}"),
            ("/orders/health", "/orders/{id}"),
            ("/billing/health", "/{service}/health"),
            ("/files/a/b/c", "/files/{*path}"),
            ("/billing/other", "/{*all}"),
            ("/billing/v1/a/b", "/{service}/v1/{*rest}"),
            ("/orders/v1/a/b", "/{service}/v1/{*rest}"),
            ("/%6Frders/7", "/{*all}"),
            ("//", "/{*all}"),
            ("/shop.Cart/Add", "/shop.Cart/{method}"),
            ("/shop.Cart/Watch", "/shop.Cart/Watch"),
        ] {
            assert_eq!(found(&routes, path), Some(template), "{path}");
        }
        templates.reverse();
    }
}

#[test]
fn a_path_without_a_template_has_no_route() {
    let routes = routes(&["/orders/{id}", "/files/{*path}"]).unwrap();
    for path in ["", "*", "orders/7", "/orders", "/orders/", "/orders/7/", "/Orders/7", "/files/", "/other"] {
        assert_eq!(found(&routes, path), None, "{path}");
    }
    assert_eq!(routes.find(b"/\xff/7"), None);
    assert_eq!(found(&Routes::default(), "/"), None);
}

#[test]
fn what_is_not_utf_8_is_a_parameter_like_any_other() {
    let routes = routes(&["/orders/{id}", "/files/{*path}"]).unwrap();
    assert_eq!(routes.find(b"/orders/\xff").map(|found| found.index), Some(0));
    assert_eq!(routes.find(b"/files/a/\xc3").map(|found| found.index), Some(1));
}

#[test]
fn escaped_braces_are_text() {
    let text = "/a/{{*}}";
    let routes = routes(&["/{x}/{*rest}", text, &"/{{".repeat(26)]).unwrap();
    assert_eq!(found(&routes, "/a/{*}"), Some(text), "it has no catch-all, and so goes before one");
    assert_eq!(found(&routes, "/a/b"), Some("/{x}/{*rest}"));
    assert_eq!(
        routes.find("/{".repeat(26).as_bytes()).map(|found| found.index),
        Some(2),
        "nor has it parameters"
    );
    assert_eq!(routes.routers.iter().map(|(begin, _)| *begin).collect::<Vec<_>>(), [NO_CATCH_ALL, 2]);
}

#[test]
fn a_match_names_its_place_in_the_list() {
    let routes = routes(&["/a", "/{*all}", "/b/{c}"]).unwrap();
    assert_eq!(routes.find(b"/b/7"), Some(Match { index: 2, template: "/b/{c}" }));
    assert_eq!(routes.get(1), routes.find(b"/other"));
    assert_eq!(routes.get(3), None);
}

#[test]
fn parameters_are_told_with_their_places_in_the_path() {
    let routes = routes(&["/{a}/b/{c}.pdf", "/x/{*rest}", "/y{{z}}/{id}"]).unwrap();
    for (path, expected) in [
        ("/ä/b/ö.pdf", &[("a", "ä"), ("c", "ö")][..]),
        ("/x/y/z", &[("rest", "y/z")]),
        ("/y{z}/7", &[("id", "7")]),
        ("/y", &[]),
    ] {
        let found: Vec<_> =
            routes.parameters(path).into_iter().map(|(name, place)| (name, &path[place])).collect();
        assert_eq!(found, expected, "{path}");
    }
    for (name, is_there) in
        [("a", true), ("c", true), ("rest", true), ("id", true), ("z", false), ("*rest", false), ("", false)]
    {
        assert_eq!(routes.have_parameter(name), is_there, "{name}");
    }
}

#[test]
fn templates_that_contradict_each_other_or_themselves_are_named() {
    let many = "/{p}".repeat(26);
    for (templates, words) in [
        (&["/a", "/a"][..], &["`routes[1]`: is `/a`", "contradict `/a` of `routes[0]`"][..]),
        (&["/x", "/a/{b}", "/a/{c}"], &["`routes[2]`: is `/a/{c}`", "`/a/{b}` of `routes[1]`"]),
        (&["/a/{*b}", "/a/{*c}"], &["`routes[1]`"]),
        (&["/v{n}", "/{n}v"], &["`routes[1]`", "contradict"]),
        (&["/{a}{b}"], &["`routes[0]`", "one parameter between two slashes"]),
        (&["/{*a}/b"], &["`routes[0]`", "at the end only"]),
        (&["/{}"], &["`routes[0]`", "such as `{id}`"]),
        (&["/{a"], &["`routes[0]`", "such as `{id}`"]),
        (&["/a}"], &["`routes[0]`", "such as `{id}`"]),
        (&[&many], &["`routes[0]`", "at most 25"]),
    ] {
        let error = routes(templates).unwrap_err();
        for word in words {
            assert!(error.contains(word), "{templates:?}: {error:?} lacks {word:?}");
        }
    }
    assert!(routes(&[&"/{p}".repeat(25)]).is_ok());
}

/// Whether `path` matches a template of which each segment is text, a parameter, or at the end a catch-all; and how
/// specific that is, the more the less.
fn specificity(template: &str, path: &str) -> Option<Vec<u8>> {
    let (mut segments, mut parts) = (template.split('/'), path.split('/'));
    let mut kinds =
        vec![template.split_once("{*").map_or(0, |(before, _)| u8::MAX - before.matches('/').count() as u8)];
    loop {
        match (segments.next(), parts.next()) {
            (None, None) => return Some(kinds),
            (Some(segment), Some(part)) if segment == part => kinds.push(0),
            (Some(segment), Some(part)) if segment.starts_with("{*") => {
                kinds.push(2);
                let has_rest = !part.is_empty() || parts.next().is_some();
                return has_rest.then_some(kinds);
            }
            (Some(segment), Some(part)) if segment.starts_with('{') && !part.is_empty() => kinds.push(1),
            _ => return None,
        }
    }
}

proptest! {
    #[test]
    fn what_is_found_is_what_a_search_of_the_whole_list_finds(
        templates in proptest::collection::btree_set(
            ("(/(a|b|ab|\\{x\\})){0,4}", prop_oneof![3 => Just(""), 1 => Just("/{*rest}"), 1 => Just("/")]),
            1..20,
        ),
        paths in proptest::collection::vec("(/(a|b|ab|c)?){1,5}", 20),
    ) {
        let templates: Vec<String> =
            templates.iter().map(|(head, tail)| format!("{head}{tail}")).filter(|text| !text.is_empty()).collect();
        let references: Vec<&str> = templates.iter().map(String::as_str).collect();
        let routes = routes(&references).unwrap();
        for path in &paths {
            let best = references
                .iter()
                .filter_map(|template| Some((specificity(template, path)?, *template)))
                .min()
                .map(|(_, template)| template);
            prop_assert_eq!(found(&routes, path), best, "{} among {:?}", path, references);
        }
    }

    #[test]
    fn any_templates_are_taken_or_refused(
        templates in proptest::collection::vec("/[ab/{}*:.]{0,12}", 1..8),
        path in "/[ab/{}*:.]{0,12}",
    ) {
        let references: Vec<&str> = templates.iter().map(String::as_str).collect();
        if let Ok(routes) = routes(&references) {
            routes.find(path.as_bytes());
        }
    }
}
