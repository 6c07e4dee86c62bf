//! The lists, and what stays out of them.

use super::*;

fn values() -> Vec<Value> {
    vec![
        Value::attribute("request.method", Presence::Usual),
        Value::attribute("request.id", Presence::Optional),
        Value::attribute("request.headers.traceparent", Presence::Optional),
        Value::attribute("response.code", Presence::Usual),
        Value::attribute("upstream.address", Presence::OfUpstream),
    ]
}

#[test]
fn only_what_is_often_missing_is_guarded_at_first() {
    let values = [&values()[..4], &values()[..4], &values()[4..]].concat();
    let stage = Stage::new(&values, 0, None);
    let header = r#""traceparent" in request.headers?request.headers["traceparent"]:"""#;
    let upstream = r#"has(upstream.address)?upstream.address:"""#;
    let terms = format!(r#"request.method,has(request.id)?request.id:"",{header},response.code"#);
    assert_eq!(stage.expression(), format!("[{terms},{terms},{upstream}]"));
    let guarded = format!(
        r#"has(request.method)?request.method:"",has(request.id)?request.id:"",{header},has(response.code)?response.code:"""#
    );
    assert_eq!(stage.guarded_expression(), format!("[{guarded},{guarded},{upstream}]"));
    assert_eq!((stage.headers().len(), stage.list_slots()), (0, 9));
}

#[test]
fn an_upstream_is_asked_for_once_where_several_of_its_values_are_wanted() {
    let usual = vec![Value::attribute("response.code", Presence::Usual); MAX_SINGLE];
    let upstream =
        ["upstream.address", "xds.cluster_name"].map(|name| Value::attribute(name, Presence::OfUpstream));
    let stage = Stage::new(&[usual, upstream.to_vec()].concat(), 0, None);
    let codes = ["response.code"; MAX_SINGLE].join(",");
    let answered = format!("[{codes},upstream.address,xds.cluster_name]");
    let unknown = format!(
        r#"[{codes},has(upstream.address)?upstream.address:"",has(xds.cluster_name)?xds.cluster_name:""]"#
    );
    let absent = format!(r#"[{codes},"",""]"#);
    assert_eq!(
        stage.expression(),
        format!("has(response.backend_latency)?{answered}:has(xds.cluster_name)?{unknown}:{absent}")
    );
}

#[test]
fn a_few_values_are_not_listed_and_the_grpc_status_never() {
    let values = [values(), values()].concat();
    let few = Stage::new(&values[..MAX_SINGLE], 0, None);
    assert_eq!((few.expression(), few.list_slots(), few.slots()), ("", MAX_SINGLE, MAX_SINGLE));
    assert_ne!(Stage::new(&values[..MAX_SINGLE + 1], 0, None).expression(), "");
    let with_status = Stage::new(&values[..MAX_SINGLE + 1], 0, Some(2));
    assert_eq!((with_status.expression(), with_status.list_slots()), ("", MAX_SINGLE));
    assert_eq!((with_status.slots(), with_status.content_type_slot()), (MAX_SINGLE + 1, Some(2)));
}

#[test]
fn what_users_want_evaluated_comes_behind_the_others_and_not_with_the_list_that_expects_less() {
    let named = |name: &str| {
        Value::expression(NamedExpression { name: name.into(), text: name.into(), term: format!("({name})") })
    };
    let wanted = [values(), vec![named("x"), named("y")]].concat();
    let stage = Stage::new(&wanted, 3, None);
    assert_eq!(stage.expression(), r#"[response.code,has(upstream.address)?upstream.address:"",(x),(y)]"#);
    assert_eq!(
        stage.guarded_expression(),
        r#"[has(response.code)?response.code:"",has(upstream.address)?upstream.address:""]"#
    );
    assert_eq!((stage.slots(), stage.list_slots(), stage.named().len()), (7, 2, 2));
    assert_eq!(stage.property_paths().len(), 5);
    let alone = Stage::new(&[named("x")], 0, None);
    assert_eq!((alone.expression(), alone.guarded_expression()), ("[(x)]", ""));
    assert!(!alone.is_empty() && alone.list_slots() == 0);
}

#[test]
fn what_is_looked_for_in_the_headers_is_not_listed() {
    let stage = Stage::new(&values(), 3, None);
    let wanted = |name: &str, is_joined| WantedHeader { name: name.into(), is_joined };
    assert_eq!(
        stage.headers()[..],
        [wanted(":method", false), wanted("x-request-id", false), wanted("traceparent", true)]
    );
    assert_eq!((stage.slots(), stage.list_slots()), (5, 2));
    assert_eq!(stage.property_paths()[2], b"request\0headers\0traceparent");
    let only_headers = Stage::new(&values()[..3], 3, None);
    assert_eq!((only_headers.expression(), only_headers.list_slots()), ("", 0));
    assert!(Stage::new(&[], 0, None).is_empty());
}
