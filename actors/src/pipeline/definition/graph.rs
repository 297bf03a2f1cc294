//! The shape of a definition: which edges may be, that everything is reached and ends, and that forks and
//! joins nest. What passes is a tree of [`Sequence`]s, which is all a run needs to know of the edges.

use petgraph::{
    Direction,
    algo::{has_path_connecting, tarjan_scc},
    graph::{DiGraph, NodeIndex},
    visit::Dfs,
};

use super::{Node, NodeKind, QuotaCost};
use crate::pipeline::{Fault, template::Template};

/// Nodes that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence(pub Vec<Item>);

/// One link of a sequence; numbers are places in `Definition::nodes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A node with one way through.
    Node(usize),
    /// A fork with all up to its join.
    Fork {
        /// The fork.
        fork: usize,
        /// Its branches in the order of its edges, none of them empty.
        branches: Vec<Sequence>,
        /// Its join.
        join: usize,
    },
}

impl Sequence {
    /// The node whose end is the end of the sequence.
    pub fn last(&self) -> Option<usize> {
        self.0.last().map(|item| match item {
            Item::Node(node) => *node,
            Item::Fork { join, .. } => *join,
        })
    }

    /// Calls `visit` with every node of the sequence and of the branches within, in order.
    pub fn for_each(&self, visit: &mut impl FnMut(usize)) {
        for item in &self.0 {
            match item {
                Item::Node(node) => visit(*node),
                Item::Fork { fork, branches, join } => {
                    visit(*fork);
                    branches.iter().for_each(|branch| branch.for_each(visit));
                    visit(*join);
                }
            }
        }
    }
}

/// An edge between two nodes, and where it was written.
pub(super) struct Edge {
    pub(super) source: usize,
    pub(super) target: usize,
    pub(super) path: String,
}

/// A definition's nodes and edges.
pub(super) struct Graph<'a> {
    nodes: &'a [Node],
    edges: &'a [Edge],
    inner: DiGraph<(), (), usize>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(nodes: &'a [Node], edges: &'a [Edge]) -> Self {
        let mut inner = DiGraph::with_capacity(nodes.len(), edges.len());
        for _ in nodes {
            inner.add_node(());
        }
        for edge in edges {
            inner.add_edge(NodeIndex::new(edge.source), NodeIndex::new(edge.target), ());
        }
        Self { nodes, edges, inner }
    }

    /// Reports every fault of the shape and gives the tree when there is none.
    pub(super) fn check(&self, faults: &mut Vec<Fault>) -> Option<Sequence> {
        let before = faults.len();
        let start = self.only(faults, "start", |kind| matches!(kind, NodeKind::Start));
        let end = self.only(faults, "end", |kind| matches!(kind, NodeKind::End(_)));
        self.check_edges(faults);
        let acyclic = self.check_cycles(faults);
        let start = start?;
        self.check_reached(start, end, faults);
        if !acyclic {
            return None;
        }
        let mut walk = Walk { graph: self, visited: vec![false; self.nodes.len()], faults };
        let (root, join) = walk.sequence(start);
        if let Some(join) = join {
            walk.fault(join, "the join ends no fork");
        }
        (faults.len() == before).then_some(root)
    }

    fn path(&self, node: usize) -> String {
        format!("/nodes/{node}")
    }

    fn id(&self, node: usize) -> &str {
        self.nodes.get(node).map_or("", |node| &node.id)
    }

    fn successors(&self, node: usize) -> Vec<usize> {
        // petgraph gives the newest edge first; branches keep the order in which they were written.
        let mut targets: Vec<_> =
            self.edges.iter().filter(|edge| edge.source == node).map(|edge| edge.target).collect();
        targets.dedup();
        targets
    }

    fn degree(&self, node: usize, direction: Direction) -> usize {
        self.inner.neighbors_directed(NodeIndex::new(node), direction).count()
    }

    /// Whether a run always passes `earlier` before `later`, or may.
    pub(super) fn precedes(&self, earlier: usize, later: usize) -> bool {
        earlier != later
            && has_path_connecting(&self.inner, NodeIndex::new(earlier), NodeIndex::new(later), None)
    }

    fn only(
        &self,
        faults: &mut Vec<Fault>,
        name: &str,
        matches: impl Fn(&NodeKind) -> bool,
    ) -> Option<usize> {
        let mut found = (0..self.nodes.len()).filter(|&node| matches(&self.nodes[node].kind));
        let first = found.next();
        if first.is_none() {
            faults.push(Fault::new("/nodes", format!("there is no {name}")));
        }
        for other in found {
            faults
                .push(Fault::new(format!("{}/type", self.path(other)), format!("there is a second {name}")));
        }
        first
    }

    fn check_edges(&self, faults: &mut Vec<Fault>) {
        for (index, edge) in self.edges.iter().enumerate() {
            let earlier = &self.edges[..index];
            if earlier.iter().any(|other| (other.source, other.target) == (edge.source, edge.target)) {
                faults.push(Fault::new(&edge.path, "the edge is there twice"));
                continue;
            }
            let source = &self.nodes[edge.source];
            match source.kind {
                NodeKind::End(_) => {
                    faults.push(Fault::new(&edge.path, "an edge leads out of the end"));
                }
                NodeKind::Fork => {}
                _ if earlier.iter().any(|other| other.source == edge.source) => {
                    let message = format!("a second edge leads out of `{}`, which is no fork", source.id);
                    faults.push(Fault::new(&edge.path, message));
                }
                _ => {}
            }
            let target = &self.nodes[edge.target];
            match target.kind {
                NodeKind::Start => faults.push(Fault::new(&edge.path, "an edge leads into the start")),
                NodeKind::Join(_) => {}
                _ if earlier.iter().any(|other| other.target == edge.target) => {
                    let message = format!("a second edge leads into `{}`, which is no join", target.id);
                    faults.push(Fault::new(&edge.path, message));
                }
                _ => {}
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let ends = matches!(node.kind, NodeKind::End(_));
            if !ends && self.degree(index, Direction::Outgoing) == 0 {
                let message = format!("no edge leads out of `{}`", node.id);
                faults.push(Fault::new(self.path(index), message));
            }
        }
    }

    fn check_cycles(&self, faults: &mut Vec<Fault>) -> bool {
        let before = faults.len();
        for group in tarjan_scc(&self.inner) {
            let looped = group.iter().any(|&node| self.inner.contains_edge(node, node));
            if group.len() > 1 || looped {
                let mut ids: Vec<_> =
                    group.iter().map(|node| format!("`{}`", self.id(node.index()))).collect();
                ids.sort();
                faults.push(Fault::new("/edges", format!("there is a cycle through {}", ids.join(", "))));
            }
        }
        faults.len() == before
    }

    fn check_reached(&self, start: usize, end: Option<usize>, faults: &mut Vec<Fault>) {
        let mut reached = vec![false; self.nodes.len()];
        let mut search = Dfs::new(&self.inner, NodeIndex::new(start));
        while let Some(node) = search.next(&self.inner) {
            reached[node.index()] = true;
        }
        for (node, _) in reached.iter().enumerate().filter(|(_, reached)| !**reached) {
            let message = if Some(node) == end {
                "the end is not reached from the start".to_owned()
            } else {
                format!("`{}` is not reached from the start", self.id(node))
            };
            faults.push(Fault::new(self.path(node), message));
        }
    }
}

/// Follows the edges from the start and builds the tree.
struct Walk<'a> {
    graph: &'a Graph<'a>,
    visited: Vec<bool>,
    faults: &'a mut Vec<Fault>,
}

impl Walk<'_> {
    fn fault(&mut self, node: usize, message: &str) {
        let message = format!("`{}`: {message}", self.graph.id(node));
        self.faults.push(Fault::new(self.graph.path(node), message));
    }

    /// Everything from `first` to the end or to a join that belongs to a fork further up.
    fn sequence(&mut self, first: usize) -> (Sequence, Option<usize>) {
        let mut items = Vec::new();
        let mut next = Some(first);
        while let Some(node) = next {
            if matches!(self.graph.nodes[node].kind, NodeKind::Join(_)) {
                return (Sequence(items), Some(node));
            }
            // Reached twice without a join: the second edge has been reported, and walking on would repeat itself.
            if std::mem::replace(&mut self.visited[node], true) {
                break;
            }
            if matches!(self.graph.nodes[node].kind, NodeKind::Fork) {
                let Some(item) = self.fork(node) else { break };
                next = match &item {
                    Item::Fork { join, .. } => self.graph.successors(*join).first().copied(),
                    Item::Node(_) => None,
                };
                items.push(item);
            } else {
                items.push(Item::Node(node));
                next = self.graph.successors(node).first().copied();
            }
        }
        (Sequence(items), None)
    }

    fn fork(&mut self, fork: usize) -> Option<Item> {
        let mut branches = Vec::new();
        let mut joins = Vec::new();
        for first in self.graph.successors(fork) {
            let (branch, join) = self.sequence(first);
            if branch.0.is_empty() && join.is_some() {
                self.fault(fork, "a branch of the fork has no node");
            }
            branches.push(branch);
            joins.push(join);
        }
        let join = joins.first().copied().flatten();
        let Some(join) = join.filter(|_| joins.iter().all(|other| *other == join)) else {
            self.fault(fork, "the branches of the fork do not all end in one join");
            return None;
        };
        if self.graph.degree(join, Direction::Incoming) > branches.len() {
            self.fault(join, "the join has an edge from outside of its fork");
        }
        Some(Item::Fork { fork, branches, join })
    }
}

/// Checks that every template reads only steps that exist and can have finished before it.
pub(super) fn check_reads(
    graph: &Graph<'_>,
    nodes: &[Node],
    quota_cost: Option<&QuotaCost>,
    faults: &mut Vec<Fault>,
) {
    let mut check = |template: &Template, reader: Option<usize>| {
        for read in template.reads() {
            let Some(id) = &read.step else { continue };
            let message = match nodes.iter().position(|node| node.id == *id) {
                None => format!("there is no step `{id}`"),
                Some(step) => match reader {
                    Some(reader) if !graph.precedes(step, reader) => {
                        format!("step `{id}` cannot have finished before `{}`", graph.id(reader))
                    }
                    _ => continue,
                },
            };
            faults.push(Fault::new(&read.path, message));
        }
    };
    for (index, node) in nodes.iter().enumerate() {
        match &node.kind {
            NodeKind::Provider(provider) => check(&provider.input, Some(index)),
            NodeKind::End(output) => check(output, Some(index)),
            NodeKind::Start | NodeKind::Fork | NodeKind::Join(_) => {}
        }
    }
    if let Some(QuotaCost::Usage { charge, .. }) = quota_cost {
        check(charge, None);
    }
}
