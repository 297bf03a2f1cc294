use serde_json::{Value as Json, json};

use super::*;
use crate::pipeline::Fault;

fn lookbook() -> Json {
    json!({"name":"Lookbook","quotaCost":2,"requiresMembership":false,"deadlineMs":900_000,
     "inputSchema":{"type":"object","required":["photo"],"properties":{"photo":{"type":"string","format":"file-id"}}},
     "nodes":[
      {"id":"start","type":"start"},
      {"id":"fan","type":"fork"},
      {"id":"front","type":"provider","provider":"image","input":{"op":"resize","file":"{{ input.photo }}","width":512},
       "timeoutMs":30_000,"retry":{"maxAttempts":3,"backoffMs":500},"fallback":["image-b"]},
      {"id":"tones","type":"provider","provider":"image","input":{"op":"palette","file":"{{ input.photo }}"}},
      {"id":"gather","type":"join","strategy":"ALL"},
      {"id":"sheet","type":"provider","provider":"image","input":{"op":"collage","files":["{{ steps.front.file }}"]}},
      {"id":"end","type":"end","output":{"lookbook":"{{ steps.sheet.file }}","palette":"{{ steps.tones.colors }}"}}],
     "edges":[["start","fan"],["fan","front"],["fan","tones"],["front","gather"],["tones","gather"],["gather","sheet"],["sheet","end"]]})
}

fn exists(id: &str) -> bool {
    ["image", "image-b"].contains(&id)
}

fn parse(json: &Json) -> Result<Definition, Vec<Fault>> {
    Definition::parse(json, &exists)
}

fn faults(json: &Json) -> Vec<(String, String)> {
    let faults = parse(json).expect_err("must be refused");
    faults.into_iter().map(|fault| (fault.path, fault.message)).collect()
}

/// A definition of `nodes` (id and type, `p` for a provider) and `edges` (`a>b`), between words.
fn shape(nodes: &str, edges: &str) -> Json {
    let nodes: Vec<Json> = nodes
        .split_whitespace()
        .map(|node| {
            let (id, kind) = node.split_once(':').expect("id:type");
            match kind {
                "p" => json!({"id": id, "type": "provider", "provider": "image"}),
                "ALL" | "ANY" | "FIRST" => json!({"id": id, "type": "join", "strategy": kind}),
                kind => json!({"id": id, "type": kind}),
            }
        })
        .collect();
    let edges: Vec<Json> = edges
        .split_whitespace()
        .map(|edge| {
            let (source, target) = edge.split_once('>').expect("source>target");
            json!([source, target])
        })
        .collect();
    json!({"name": "shape", "quotaCost": 1, "nodes": nodes, "edges": edges})
}

fn replaced(pointer: &str, value: Json) -> Json {
    let mut json = lookbook();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = json.pointer_mut(parent).expect("the parent exists");
    match parent {
        Json::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
        Json::Object(fields) => {
            fields.insert(key.to_owned(), value);
        }
        _ => panic!("{pointer} is no container"),
    }
    json
}

#[test]
fn the_documented_example_is_accepted_as_it_stands() {
    let definition = parse(&lookbook()).expect("the example of the contract");
    assert_eq!(definition.name, "Lookbook");
    assert_eq!(definition.quota_cost.max(), 2);
    assert_eq!(definition.deadline, Duration::from_secs(900));
    assert_eq!(
        definition.root(),
        &Sequence(vec![
            Item::Node(0),
            Item::Fork {
                fork: 1,
                branches: vec![Sequence(vec![Item::Node(2)]), Sequence(vec![Item::Node(3)])],
                join: 4
            },
            Item::Node(5),
            Item::Node(6),
        ])
    );
    let NodeKind::Provider(front) = &definition.nodes()[2].kind else { panic!("a provider") };
    assert_eq!(front.providers().collect::<Vec<_>>(), ["image", "image-b"]);
    assert_eq!(front.timeout, Some(Duration::from_secs(30)));
    assert_eq!(front.retry, Some(RetryPolicy { max_attempts: 3, backoff_ms: 500 }));
}

#[test]
fn what_may_be_left_out_has_its_default() {
    let mut json = shape("start:start a:p end:end", "start>a a>end");
    json["edges"] = json!([{"source": "start", "target": "a"}, ["a", "end"]]);
    let definition = parse(&json).expect("a small definition");
    assert_eq!(definition.deadline, DEFAULT_DEADLINE);
    assert!(!definition.requires_membership && !definition.charge_on_content_rejected);
    assert!(definition.input_schema.validate(&json!({"any": 1}), "/input").is_ok());
    assert!(definition.input_schema.validate(&json!("text"), "/input").is_err());
    let NodeKind::Provider(node) = &definition.nodes()[1].kind else { panic!("a provider") };
    assert!(node.retry.is_none() && node.timeout.is_none() && node.fallback.is_empty());
}

#[test]
fn forks_nest_and_the_smallest_pipeline_has_no_step() {
    for (nodes, edges) in [
        ("start:start end:end", "start>end"),
        (
            "start:start f:fork a:p g:fork b:p c:p h:ANY d:p j:FIRST end:end",
            "start>f f>a a>g g>b g>c b>h c>h h>j f>d d>j j>end",
        ),
        (
            "start:start f:fork g:fork a:p b:p h:ALL c:p j:ALL end:end",
            "start>f f>g g>a g>b a>h b>h h>j f>c c>j j>end",
        ),
        ("start:start f:fork a:p j:ALL g:fork b:p k:ALL end:end", "start>f f>a a>j j>g g>b b>k k>end"),
    ] {
        if let Err(faults) = parse(&shape(nodes, edges)) {
            panic!("{nodes}: {faults:?}");
        }
    }
}

#[test]
fn a_usage_cost_is_one_expression() {
    let cost = json!({"max": 10, "charge": "{{ steps.tones.colors | length }}"});
    let definition = parse(&replaced("/quotaCost", cost)).expect("a usage cost");
    assert_eq!(definition.quota_cost.max(), 10);
}

#[test]
fn every_wrong_field_is_named() {
    let cases = [
        ("/name", json!(""), "/name", "must have 1 to 100 characters"),
        ("/name", json!("  "), "/name", "must not be blank"),
        ("/name", json!("x".repeat(101)), "/name", "must have 1 to 100 characters"),
        ("/name", json!(5), "/name", "must be a string"),
        ("/name", json!("a\0b"), "/name", "must not contain a NUL character"),
        ("/description", json!([]), "/description", "must be a string"),
        ("/requiresMembership", json!("yes"), "/requiresMembership", "must be true or false"),
        ("/chargeOnContentRejected", json!(1), "/chargeOnContentRejected", "must be true or false"),
        ("/deadlineMs", json!(99), "/deadlineMs", "must be a whole number from 100 to 86400000"),
        ("/deadlineMs", json!(1.5), "/deadlineMs", "must be a whole number from 100 to 86400000"),
        ("/quotaCost", json!(-1), "/quotaCost", "must be a whole number from 0 to 1000000"),
        ("/quotaCost", json!(1_000_001), "/quotaCost", "must be a whole number from 0 to 1000000"),
        ("/quotaCost", json!("2"), "/quotaCost", "must be a whole number from 0 to 1000000"),
        ("/quotaCost", json!({"max": 1}), "/quotaCost/charge", "is missing"),
        ("/quotaCost", json!({"max": -1, "charge": "{{ 1 }}"}), "/quotaCost/max", "must be a whole number"),
        (
            "/quotaCost",
            json!({"max": 1, "charge": "{{ 1 }}{{ 2 }}"}),
            "/quotaCost/charge",
            "must be exactly one",
        ),
        ("/quotaCost", json!({"max": 1, "charge": 1}), "/quotaCost/charge", "must be exactly one"),
        ("/quotaCost", json!({"max": 1, "charge": "{{ 1 }}", "x": 1}), "/quotaCost/x", "unknown field"),
        (
            "/quotaCost",
            json!({"max": 1, "charge": "{{ steps.no }}"}),
            "/quotaCost/charge",
            "there is no step `no`",
        ),
        ("/quota_cost", json!(1), "/quota_cost", "unknown field"),
        ("/inputSchema", json!(true), "/inputSchema", "must be an object"),
        ("/inputSchema/type", json!("objekt"), "/inputSchema/type", ""),
        ("/nodes", json!({}), "/nodes", "must be a list"),
        ("/nodes/0", json!("start"), "/nodes/0", "must be an object"),
        ("/nodes/0/id", json!("a b"), "/nodes/0/id", "may have letters, digits, `_` and `-`"),
        ("/nodes/0/id", json!(""), "/nodes/0/id", "must have 1 to 64 characters"),
        ("/nodes/0/id", json!("end"), "/nodes/6/id", "there are two nodes `end`"),
        ("/nodes/0/type", json!("begin"), "/nodes/0/type", "must be start, provider, fork, join or end"),
        ("/nodes/0/provider", json!("image"), "/nodes/0/provider", "unknown field"),
        ("/nodes/1/strategy", json!("ALL"), "/nodes/1/strategy", "unknown field"),
        ("/nodes/4/strategy", json!("all"), "/nodes/4/strategy", "must be ALL, ANY or FIRST"),
        ("/nodes/4/strategy", Json::Null, "/nodes/4/strategy", "is missing"),
        ("/nodes/6/output", json!("{{ nope }}"), "/nodes/6/output", "unknown variable `nope`"),
        (
            "/nodes/6/output",
            json!("{{ input.photo | file_url }}"),
            "/nodes/6/output",
            "the filter `file_url`",
        ),
        ("/nodes/2/provider", json!("painter"), "/nodes/2/provider", "there is no provider `painter`"),
        ("/nodes/2/provider", Json::Null, "/nodes/2/provider", "is missing"),
        ("/nodes/2/fallback", json!(["image"]), "/nodes/2/fallback/0", "`image` is asked twice"),
        (
            "/nodes/2/fallback",
            json!(["image-b", "image-b"]),
            "/nodes/2/fallback/1",
            "`image-b` is asked twice",
        ),
        ("/nodes/2/fallback", json!(["nobody"]), "/nodes/2/fallback/0", "there is no provider `nobody`"),
        ("/nodes/2/fallback", json!("image-b"), "/nodes/2/fallback", "must be a list"),
        ("/nodes/2/fallback", json!(vec!["image-b"; 11]), "/nodes/2/fallback", "at most 10 fallbacks"),
        ("/nodes/2/timeoutMs", json!(99), "/nodes/2/timeoutMs", "must be a whole number from 100 to 3600000"),
        ("/nodes/2/timeoutMs", json!(3_600_001), "/nodes/2/timeoutMs", "must be a whole number from 100"),
        ("/nodes/2/retry", json!(3), "/nodes/2/retry", "must be an object"),
        (
            "/nodes/2/retry/maxAttempts",
            json!(0),
            "/nodes/2/retry/maxAttempts",
            "must be a whole number from 1 to 20",
        ),
        (
            "/nodes/2/retry/maxAttempts",
            json!(21),
            "/nodes/2/retry/maxAttempts",
            "must be a whole number from 1 to 20",
        ),
        (
            "/nodes/2/retry/backoffMs",
            json!(-1),
            "/nodes/2/retry/backoffMs",
            "must be a whole number from 0 to 60000",
        ),
        ("/nodes/2/retry/jitter", json!(1), "/nodes/2/retry/jitter", "unknown field"),
        ("/nodes/2/outputSchema", json!({"type": 1}), "/nodes/2/outputSchema/type", ""),
        (
            "/nodes/2/input/file",
            json!("{{ input.photo | fileurl }}"),
            "/nodes/2/input/file",
            "unknown filter `fileurl`",
        ),
        (
            "/nodes/2/input/file",
            json!("{{ steps.nope.file }}"),
            "/nodes/2/input/file",
            "there is no step `nope`",
        ),
        (
            "/nodes/2/input/file",
            json!("{{ steps.sheet.file }}"),
            "/nodes/2/input/file",
            "step `sheet` cannot have finished before `front`",
        ),
        (
            "/nodes/2/input/file",
            json!("{{ steps.tones.file }}"),
            "/nodes/2/input/file",
            "step `tones` cannot have finished before `front`",
        ),
        (
            "/nodes/2/input/file",
            json!("{{ steps['front'].file }}"),
            "/nodes/2/input/file",
            "step `front` cannot have finished before `front`",
        ),
        ("/edges", json!(5), "/edges", "must be a list"),
        ("/edges", Json::Null, "/edges", "is missing"),
        ("/edges/0", json!(["start"]), "/edges/0", "must be [source, target]"),
        ("/edges/0", json!(["start", "fan", "x"]), "/edges/0", "must be [source, target]"),
        (
            "/edges/0",
            json!({"source": "start", "target": "fan", "label": ""}),
            "/edges/0",
            "must be [source, target]",
        ),
        ("/edges/0", json!({"source": "start"}), "/edges/0/target", "must be the id of a node"),
        ("/edges/0", json!(["start", 1]), "/edges/0/1", "must be the id of a node"),
        ("/edges/0", json!(["start", "fann"]), "/edges/0/1", "there is no node `fann`"),
    ];
    for (place, value, path, message) in cases {
        let found = faults(&replaced(place, value.clone()));
        assert!(
            found.iter().any(|(p, m)| p == path && m.starts_with(message)),
            "{place} = {value}: wanted {path} {message}, found {found:?}"
        );
    }
}

#[test]
fn every_wrong_shape_is_named() {
    let cases = [
        ("a:p end:end", "a>end", "/nodes", "there is no start"),
        ("start:start a:p", "start>a", "/nodes", "there is no end"),
        ("start:start s:start end:end", "start>end s>end", "/nodes/1/type", "there is a second start"),
        (
            "start:start f:fork a:p b:p j:ALL e:end end:end",
            "start>f f>a f>b a>j b>j j>e",
            "/nodes/6/type",
            "there is a second end",
        ),
        ("start:start a:p end:end", "start>a a>end end>a", "/edges/2", "an edge leads out of the end"),
        ("start:start a:p end:end", "start>a a>end a>start", "/edges/2", "an edge leads into the start"),
        (
            "start:start a:p b:p end:end",
            "start>a start>b a>end b>end",
            "/edges/1",
            "a second edge leads out of `start`, which is no fork",
        ),
        (
            "start:start a:p b:p end:end",
            "start>a start>b a>end b>end",
            "/edges/3",
            "a second edge leads into `end`, which is no join",
        ),
        ("start:start a:p b:p end:end", "start>a a>end", "/nodes/2", "`b` is not reached from the start"),
        ("start:start a:p end:end", "start>a", "/nodes/2", "the end is not reached from the start"),
        ("start:start a:p end:end", "start>a", "/nodes/1", "no edge leads out of `a`"),
        ("start:start a:p end:end", "start>a start>a a>end", "/edges/1", "the edge is there twice"),
        (
            "start:start a:p b:p end:end",
            "start>a a>b b>a b>end",
            "/edges",
            "there is a cycle through `a`, `b`",
        ),
        ("start:start a:p end:end", "start>a a>a a>end", "/edges", "there is a cycle through `a`"),
        (
            "start:start f:fork a:p b:p end:end",
            "start>f f>a f>b a>end b>end",
            "/nodes/1",
            "`f`: the branches of the fork do not all end in one join",
        ),
        (
            "start:start f:fork a:p b:p j:ALL end:end",
            "start>f f>a f>b a>j j>end b>end",
            "/nodes/1",
            "`f`: the branches of the fork do not all end in one join",
        ),
        ("start:start a:p j:ALL end:end", "start>a a>j j>end", "/nodes/2", "`j`: the join ends no fork"),
        (
            "start:start f:fork a:p j:ALL end:end",
            "start>f f>a f>j a>j j>end",
            "/nodes/1",
            "`f`: a branch of the fork has no node",
        ),
        (
            "start:start f:fork a:p b:p g:fork c:p d:p j:ALL k:ALL end:end",
            "start>f f>a f>g g>c g>d a>j c>j d>k j>k k>end",
            "/nodes/4",
            "`g`: the branches of the fork do not all end in one join",
        ),
        (
            "start:start f:fork a:p b:p j:ALL k:ALL end:end",
            "start>f f>a f>b a>j b>k j>k k>end",
            "/nodes/1",
            "`f`: the branches of the fork do not all end in one join",
        ),
        (
            "start:start f:fork g:fork a:p b:p h:fork c:p d:p j:ALL k:ALL end:end",
            "start>f f>g f>h g>a g>b a>j b>j h>c h>d c>j d>j j>k k>end",
            "/nodes/8",
            "`j`: the join has an edge from outside of its fork",
        ),
    ];
    for (nodes, edges, path, message) in cases {
        let found = faults(&shape(nodes, edges));
        assert!(
            found.iter().any(|(p, m)| p == path && m == message),
            "{nodes} / {edges}: wanted {path} {message}, found {found:?}"
        );
    }
}

#[test]
fn all_faults_come_at_once_in_order() {
    let json = json!({"name": "", "quotaCost": -5, "deadlineMs": "x", "color": 1, "edges": [["a", "b"]],
        "nodes": [{"id": "x y", "type": "provider", "provider": "none", "input": "{{ a | b }}"}]});
    let paths: Vec<String> = faults(&json).into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        paths,
        [
            "/color",
            "/deadlineMs",
            "/edges/0/0",
            "/edges/0/1",
            "/name",
            "/nodes/0/id",
            "/nodes/0/input",
            "/nodes/0/input",
            "/nodes/0/provider",
            "/quotaCost"
        ]
    );
}

#[test]
fn sizes_are_bounded() {
    assert_eq!(faults(&json!("x"))[0], (String::new(), "must be an object".to_owned()));
    let nodes: Vec<Json> = (0..=MAX_NODES).map(|n| json!({"id": format!("n{n}"), "type": "fork"})).collect();
    assert!(
        faults(&replaced("/nodes", json!(nodes))).contains(&("/nodes".into(), "at most 200 nodes".into()))
    );
    let edges = vec![json!(["start", "fan"]); 801];
    assert!(
        faults(&replaced("/edges", json!(edges))).contains(&("/edges".into(), "at most 800 edges".into()))
    );
    let huge = replaced("/nodes/2/input", json!({"x": "y".repeat(MAX_DEFINITION_BYTES)}));
    assert_eq!(faults(&huge), [(String::new(), "a definition has at most 262144 bytes".to_owned())]);
}

#[test]
fn the_largest_definition_is_checked_quickly() {
    // 50 forks one in another: a walk that looked at a node more than once would never end.
    let mut nodes = "start:start".to_owned();
    let mut edges = String::new();
    let mut last = "start".to_owned();
    for n in 0..50 {
        nodes += &format!(" f{n}:fork a{n}:p j{n}:ALL");
        edges += &format!(" {last}>f{n} f{n}>a{n} a{n}>j{n}");
        last = format!("f{n}");
    }
    nodes += " leaf:p end:end";
    edges += &format!(" {last}>leaf leaf>j49");
    for n in (1..50).rev() {
        edges += &format!(" j{n}>j{}", n - 1);
    }
    edges += " j0>end";
    parse(&shape(&nodes, &edges)).expect("nested forks");
}
