//! From the author's JSON to a [`Definition`].

use std::{collections::HashMap, time::Duration};

use serde_json::{Value as Json, json};

use super::{
    DEFAULT_DEADLINE, Definition, MAX_DEFINITION_BYTES, MAX_NODES, MAX_QUOTA_COST, Node, NodeKind,
    ProviderNode, QuotaCost, RetryPolicy, Strategy,
    fault::pointer,
    graph::{self, Edge, Graph},
    reader::Reader,
};
use crate::pipeline::{
    Fault,
    schema::{self, Schema},
    template::{Scope, Template},
};

const MAX_ID_CHARACTERS: usize = 64;
const MAX_FALLBACKS: usize = 10;
const MAX_EDGES: usize = 4 * MAX_NODES;

pub(super) fn definition(
    json: &Json,
    provider_exists: &dyn Fn(&str) -> bool,
) -> Result<Definition, Vec<Fault>> {
    let mut faults = Vec::new();
    if json.to_string().len() > MAX_DEFINITION_BYTES {
        return Err(vec![Fault::new("", format!("a definition has at most {MAX_DEFINITION_BYTES} bytes"))]);
    }
    schema::refuse_nul(json, "", &mut faults);
    let Some(mut reader) = Reader::new(json, String::new(), &mut faults) else {
        return Err(faults);
    };

    let name = reader.required("name");
    let name = reader.string("name", name, 1..=100).map(str::trim);
    if name == Some("") {
        reader.fault("name", "must not be blank");
    }
    let description = reader.optional("description");
    let description = reader.string("description", description, 0..=2_000);
    let quota_cost = quota_cost(&mut reader);
    let charge_on_content_rejected = reader.flag("chargeOnContentRejected");
    let requires_membership = reader.flag("requiresMembership");
    let deadline = reader.optional("deadlineMs");
    let deadline = reader.integer("deadlineMs", deadline, 100..=86_400_000);
    let input_schema = input_schema(&mut reader);
    let nodes = nodes(&mut reader, provider_exists);
    let edges = edges(&mut reader, &nodes);
    reader.finish(&mut faults);

    let complete: Option<Vec<Node>> = nodes.into_iter().map(|(_, node)| node).collect();
    let (Some(nodes), Some(edges)) = (complete, edges) else { return Err(faults) };
    let graph = Graph::new(&nodes, &edges);
    let root = graph.check(&mut faults);
    graph::check_reads(&graph, &nodes, quota_cost.as_ref(), &mut faults);

    match (name, quota_cost, input_schema, root) {
        (Some(name), Some(quota_cost), Some(input_schema), Some(root)) if faults.is_empty() => {
            Ok(Definition {
                name: name.to_owned(),
                description: description.unwrap_or_default().to_owned(),
                quota_cost,
                charge_on_content_rejected,
                requires_membership,
                deadline: deadline.map_or(DEFAULT_DEADLINE, milliseconds),
                input_schema,
                nodes,
                root,
            })
        }
        _ => Err(faults),
    }
}

fn milliseconds(number: i64) -> Duration {
    Duration::from_millis(number.unsigned_abs())
}

fn quota_cost(reader: &mut Reader<'_>) -> Option<QuotaCost> {
    let value = reader.required("quotaCost")?;
    if !value.is_object() {
        return reader.integer("quotaCost", Some(value), 0..=MAX_QUOTA_COST).map(QuotaCost::Fixed);
    }
    let path = reader.at("quotaCost");
    let mut usage = Reader::new(value, path, reader.faults())?;
    let max = usage.required("max");
    let max = usage.integer("max", max, 0..=MAX_QUOTA_COST);
    let charge = usage.required("charge").and_then(|charge| {
        let template = template(&mut usage, "charge", charge, Scope::RESULT)?;
        if !template.is_expression() {
            usage.fault("charge", "must be exactly one expression, like {{ steps.draw.images | length }}");
        }
        Some(template)
    });
    usage.finish(reader.faults());
    Some(QuotaCost::Usage { max: max?, charge: charge? })
}

fn template(reader: &mut Reader<'_>, name: &str, value: &Json, scope: Scope) -> Option<Template> {
    let path = reader.at(name);
    Template::compile(value, &path, scope).map_err(|mut found| reader.faults().append(&mut found)).ok()
}

fn compile_schema(reader: &mut Reader<'_>, name: &str, value: &Json) -> Option<Schema> {
    let path = reader.at(name);
    Schema::compile(value, &path).map_err(|mut found| reader.faults().append(&mut found)).ok()
}

fn input_schema(reader: &mut Reader<'_>) -> Option<Schema> {
    let any_object = json!({"type": "object"});
    let value = reader.optional("inputSchema").unwrap_or(&any_object);
    compile_schema(reader, "inputSchema", value)
}

/// The nodes with their ids where they have one; a node with faults is none.
type Nodes = Vec<(Option<String>, Option<Node>)>;

fn nodes(reader: &mut Reader<'_>, provider_exists: &dyn Fn(&str) -> bool) -> Nodes {
    let value = reader.required("nodes");
    let list = reader.list("nodes", value);
    if list.len() > MAX_NODES {
        reader.fault("nodes", format!("at most {MAX_NODES} nodes"));
        return Vec::new();
    }
    let at = reader.at("nodes");
    let mut nodes: Nodes = Vec::with_capacity(list.len());
    for (index, json) in list.iter().enumerate() {
        let path = pointer(&at, index);
        let (id, node) = node(json, path.clone(), provider_exists, reader.faults());
        if id.is_some() && nodes.iter().any(|(other, _)| *other == id) {
            let id = id.as_deref().unwrap_or_default();
            reader.faults().push(Fault::new(pointer(&path, "id"), format!("there are two nodes `{id}`")));
        }
        nodes.push((id, node));
    }
    nodes
}

fn node(
    json: &Json,
    path: String,
    provider_exists: &dyn Fn(&str) -> bool,
    faults: &mut Vec<Fault>,
) -> (Option<String>, Option<Node>) {
    let Some(mut reader) = Reader::new(json, path, faults) else { return (None, None) };
    let id = reader.required("id");
    let id = reader.string("id", id, 1..=MAX_ID_CHARACTERS).map(str::to_owned);
    if id.as_deref().is_some_and(|id| !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-'))
    {
        reader.fault("id", "may have letters, digits, `_` and `-`");
    }
    let kind = reader.required("type").and_then(|kind| node_kind(&mut reader, kind, provider_exists));
    if kind.is_some() {
        reader.finish(faults);
    } else {
        // Which fields are known depends on the type.
        faults.append(reader.faults());
    }
    let node = id.clone().zip(kind).map(|(id, kind)| Node { id, kind });
    (id, node)
}

fn node_kind(
    reader: &mut Reader<'_>,
    kind: &Json,
    provider_exists: &dyn Fn(&str) -> bool,
) -> Option<NodeKind> {
    match kind.as_str() {
        Some("start") => Some(NodeKind::Start),
        Some("fork") => Some(NodeKind::Fork),
        Some("join") => {
            let strategy = reader.required("strategy")?;
            match strategy.as_str() {
                Some("ALL") => Some(NodeKind::Join(Strategy::All)),
                Some("ANY") => Some(NodeKind::Join(Strategy::Any)),
                Some("FIRST") => Some(NodeKind::Join(Strategy::First)),
                _ => {
                    reader.fault("strategy", "must be ALL, ANY or FIRST");
                    None
                }
            }
        }
        Some("end") => {
            let output = reader.optional("output").unwrap_or(&Json::Null);
            template(reader, "output", output, Scope::RESULT).map(NodeKind::End)
        }
        Some("provider") => {
            provider_node(reader, provider_exists).map(|node| NodeKind::Provider(Box::new(node)))
        }
        _ => {
            reader.fault("type", "must be start, provider, fork, join or end");
            None
        }
    }
}

fn provider_node(reader: &mut Reader<'_>, provider_exists: &dyn Fn(&str) -> bool) -> Option<ProviderNode> {
    let provider = reader.required("provider");
    let provider = reader.string("provider", provider, 1..=MAX_ID_CHARACTERS).map(str::to_owned);
    if let Some(id) = provider.as_deref().filter(|id| !provider_exists(id)) {
        reader.fault("provider", format!("there is no provider `{id}`"));
    }
    let empty = json!({});
    let input = reader.optional("input").unwrap_or(&empty);
    let input = template(reader, "input", input, Scope::STEP);
    let timeout = reader.optional("timeoutMs");
    let timeout = reader.integer("timeoutMs", timeout, 100..=3_600_000).map(milliseconds);
    let retry = reader.optional("retry").and_then(|retry| retry_policy(reader, retry));
    let fallback = fallback(reader, provider.as_deref(), provider_exists);
    let output_schema =
        reader.optional("outputSchema").and_then(|value| compile_schema(reader, "outputSchema", value));
    Some(ProviderNode { provider: provider?, fallback, input: input?, timeout, retry, output_schema })
}

fn retry_policy(reader: &mut Reader<'_>, json: &Json) -> Option<RetryPolicy> {
    let path = reader.at("retry");
    let mut retry = Reader::new(json, path, reader.faults())?;
    let standard = RetryPolicy::default();
    let max_attempts = retry.optional("maxAttempts");
    let max_attempts = retry.integer("maxAttempts", max_attempts, 1..=20);
    let backoff = retry.optional("backoffMs");
    let backoff = retry.integer("backoffMs", backoff, 0..=60_000);
    retry.finish(reader.faults());
    Some(RetryPolicy {
        max_attempts: max_attempts
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(standard.max_attempts),
        backoff_ms: backoff.map_or(standard.backoff_ms, i64::unsigned_abs),
    })
}

fn fallback(
    reader: &mut Reader<'_>,
    provider: Option<&str>,
    provider_exists: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let value = reader.optional("fallback");
    let list = reader.list("fallback", value);
    if list.len() > MAX_FALLBACKS {
        reader.fault("fallback", format!("at most {MAX_FALLBACKS} fallbacks"));
        return Vec::new();
    }
    let at = reader.at("fallback");
    let mut fallback: Vec<String> = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let path = pointer(&at, index);
        let message = match item.as_str() {
            None => "must be the id of a provider".to_owned(),
            Some(id) if provider == Some(id) || fallback.iter().any(|other| other == id) => {
                format!("`{id}` is asked twice")
            }
            Some(id) if !provider_exists(id) => format!("there is no provider `{id}`"),
            Some(id) => {
                fallback.push(id.to_owned());
                continue;
            }
        };
        reader.faults().push(Fault::new(path, message));
    }
    fallback
}

/// The edges between node positions, or none when one of them is no edge.
fn edges(reader: &mut Reader<'_>, nodes: &Nodes) -> Option<Vec<Edge>> {
    let value = reader.required("edges");
    let list = reader.list("edges", value);
    if list.len() > MAX_EDGES {
        reader.fault("edges", format!("at most {MAX_EDGES} edges"));
        return None;
    }
    let positions: HashMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .rev() // of two nodes with one id the first counts
        .filter_map(|(position, (id, _))| Some((id.as_deref()?, position)))
        .collect();
    let at = reader.at("edges");
    let mut complete = value.is_some_and(Json::is_array);
    let mut edges = Vec::with_capacity(list.len());
    for (index, json) in list.iter().enumerate() {
        let path = pointer(&at, index);
        let mut known = |step: &str, id: Option<&Json>| {
            let found = id.and_then(Json::as_str).and_then(|id| positions.get(id)).copied();
            if found.is_none() {
                let message = match id.and_then(Json::as_str) {
                    Some(id) => format!("there is no node `{id}`"),
                    None => "must be the id of a node".to_owned(),
                };
                reader.faults().push(Fault::new(pointer(&path, step), message));
            }
            found
        };
        let ends = match json {
            Json::Array(pair) if pair.len() == 2 => Some((known("0", pair.first()), known("1", pair.get(1)))),
            Json::Object(fields) if fields.keys().all(|key| key == "source" || key == "target") => {
                Some((known("source", fields.get("source")), known("target", fields.get("target"))))
            }
            _ => None,
        };
        match ends {
            Some((Some(source), Some(target))) => edges.push(Edge { source, target, path }),
            Some(_) => complete = false,
            None => {
                let message = "must be [source, target] or {\"source\", \"target\"}";
                reader.faults().push(Fault::new(path, message));
                complete = false;
            }
        }
    }
    complete.then_some(edges)
}
