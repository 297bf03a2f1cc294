use serde_json::{Value as Json, json};

use super::*;

const FILE: &str = "0192f0c1-2d3e-7000-8000-000000000001";

fn context() -> Context {
    Context::new()
        .with(
            "input",
            &json!({"photo": FILE, "prompt": "red \"coat\"", "count": 3, "tags": ["a", "b"], "none": null,
                    "huge": 9_007_199_254_740_993_i64, "half": 0.5, "flag": true}),
        )
        .with("steps", &json!({"draw": {"images": ["x", "y"], "file": FILE}, "late": null}))
        .with("task", &json!({"id": "t1"}))
}

fn compile(document: &Json) -> Template {
    Template::compile(document, "/doc", Scope::STEP).expect("a good template")
}

fn render(document: &Json) -> Json {
    let rendered = compile(document).render(&context()).expect("renders");
    assert_eq!(rendered.files(), []);
    rendered.resolve(&[]).expect("no files")
}

fn failure(document: &Json) -> TemplateError {
    compile(document).render(&context()).expect_err("must not render")
}

fn faults(document: &Json, scope: Scope) -> Vec<(String, String)> {
    let faults = Template::compile(document, "/doc", scope).expect_err("must not compile");
    faults.into_iter().map(|fault| (fault.path, fault.message)).collect()
}

#[test]
fn one_expression_keeps_its_type_and_everything_else_is_text() {
    let cases = [
        (json!("plain"), json!("plain")),
        (json!(7), json!(7)),
        (json!("{{ input.count }}"), json!(3)),
        (json!("  {{input.count}}\n"), json!(3)),
        (json!("{{- input.count -}}"), json!(3)),
        (json!("{{ input.count + 1 }}"), json!(4)),
        (json!("{{ input.huge }}"), json!(9_007_199_254_740_993_i64)),
        (json!("{{ input.half }}"), json!(0.5)),
        (json!("{{ input.tags }}"), json!(["a", "b"])),
        (json!("{{ {'a': {'b': input.flag}} }}"), json!({"a": {"b": true}})),
        (json!("{{ steps.draw.images | length }}"), json!(2)),
        (json!("{{ steps['draw'].images[1] }}"), json!("y")),
        (json!("{{ input.prompt }}"), json!("red \"coat\"")),
        (json!("{{ task.id }}"), json!("t1")),
        (json!("{{ input.count }}{{ input.count }}"), json!("33")),
        (json!("{{ 'a' }} x {{ 'b' }}"), json!("a x b")),
        (json!("a {{ input.prompt }}!"), json!("a red \"coat\"!")),
        (json!("line {{ input.count }}\n"), json!("line 3\n")),
        (json!("tags: {{ input.tags }}"), json!("tags: [\"a\",\"b\"]")),
        (json!("{% if input.flag %}yes{% else %}no{% endif %}"), json!("yes")),
        (json!("{% for tag in input.tags %}<{{ tag }}>{% endfor %}"), json!("<a><b>")),
        (json!("<b>{{ '<i>' }}</b>"), json!("<b><i></b>")),
    ];
    for (document, expected) in cases {
        assert_eq!(render(&document), expected, "{document}");
    }
}

#[test]
fn templates_stand_anywhere_in_a_document() {
    let document =
        json!({"op": "resize", "nested": [{"width": "{{ input.count }}"}, "{{ input.none }}"], "n": null});
    assert_eq!(render(&document), json!({"op": "resize", "nested": [{"width": 3}, null], "n": null}));
}

#[test]
fn any_path_into_what_is_not_there_is_null_and_no_text() {
    for path in
        ["steps.late", "steps.late.file", "steps.late.a.b[3].c", "steps.never.x", "input.none.x", "task.nope"]
    {
        assert_eq!(render(&json!(format!("{{{{ {path} }}}}"))), Json::Null, "{path}");
        assert_eq!(render(&json!(format!("<{{{{ {path} }}}}>"))), json!("<>"), "{path}");
    }
}

#[test]
fn files_are_named_once_and_put_in_afterwards() {
    let document = json!({
        "url": "{{ input.photo | file_url }}",
        "again": "see {{ input.photo | file_url }} and {{ steps.draw.file | file_base64 }}.",
        "absent": "{{ input.none | file_url }}",
    });
    let rendered = compile(&document).render(&context()).expect("renders");
    let named = |form| FileReference { file_id: FILE.into(), form };
    assert_eq!(rendered.files().len(), 2);
    assert!(rendered.files().contains(&named(FileForm::Url)));
    assert!(rendered.files().contains(&named(FileForm::Base64)));
    let texts: Vec<String> = rendered
        .files()
        .iter()
        .map(|file| if file.form == FileForm::Url { "U".to_owned() } else { "B".to_owned() })
        .collect();
    assert!(rendered.clone().resolve(&texts[..1]).is_err());
    assert!(rendered.clone().resolve(&vec!["x".to_owned(); 3]).is_err());
    assert_eq!(
        rendered.resolve(&texts).expect("both texts"),
        json!({"url": "U", "again": "see U and B.", "absent": null})
    );
}

#[test]
fn nobody_can_forge_a_placeholder() {
    let template = compile(&json!(["{{ input.photo | file_url }}", "{{ input.prompt }}"]));
    let earlier = template.render(&context()).expect("renders");
    let leaked = earlier.value[0].as_str().expect("a placeholder").to_owned();
    assert!(leaked.contains("file:"));
    let context = Context::new().with("input", &json!({"photo": FILE, "prompt": leaked}));
    let rendered = template.render(&context).expect("renders");
    let resolved = rendered.resolve(&["https://signed".to_owned()]).expect("one text");
    assert_eq!(resolved, json!(["https://signed", leaked]));
}

#[test]
fn a_placeholder_cut_in_two_puts_nothing_in() {
    let rendered =
        compile(&json!("{{ (input.photo | file_url)[:12] }}")).render(&context()).expect("renders");
    let resolved = rendered.resolve(&["secret".to_owned()]).expect("one text");
    assert!(!resolved.to_string().contains("secret"));
}

#[test]
fn a_file_must_be_an_id() {
    let failed = failure(&json!({"image": "{{ input.count | file_url }}"}));
    assert_eq!(failed.path, "/doc/image");
    assert_eq!(failed.message, "file_url needs a file id, not a number");
    let many = "{% for n in range(65) %}{{ n | string | file_url }}{% endfor %}";
    assert_eq!(failure(&json!(many)).message, "a document carries at most 64 files");
}

#[test]
fn faults_are_found_when_saving_and_name_their_place() {
    let cases: [(&str, &str); 13] = [
        ("{{ input. }}", "the template does not compile"),
        ("{{ input.a", "the template does not compile"),
        ("{% if %}x{% endif %}", "the template does not compile"),
        ("{% for a in input.b %}", "the template does not compile"),
        ("{% include 'x' %}", "the statement `include` is not allowed in a template"),
        ("{% macro m() %}x{% endmacro %}", "the statement `macro` is not allowed in a template"),
        ("{% import 'x' as y %}", "the statement `import` is not allowed in a template"),
        ("{% do input.f() %}", "the statement `do` is not allowed in a template"),
        ("{{ inptu.photo }}", "unknown variable `inptu`; there are input, steps, task"),
        ("a {{ debug() }}", "unknown variable `debug`; there are input, steps, task"),
        ("{{ namespace() }}", "unknown variable `namespace`; there are input, steps, task"),
        ("{{ input.x | shout }}", "unknown filter `shout`"),
        ("{{ 1 if input.x is shiny else 2 }}", "unknown test `shiny`"),
    ];
    for (template, message) in cases {
        let found = faults(&json!({"a": [0, template]}), Scope::STEP);
        assert_eq!(found.len(), 1, "{template}: {found:?}");
        assert_eq!(found[0].0, "/doc/a/1", "{template}");
        assert!(found[0].1.starts_with(message), "{template}: {}", found[0].1);
    }
}

#[test]
fn all_faults_come_at_once() {
    let document = json!({"a": "{{ x | y }}", "b/c": "{{ ) }}", "d": "{{ input | upper }}"});
    let paths: Vec<String> = faults(&document, Scope::STEP).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/doc/a", "/doc/a", "/doc/b~1c"]);
}

#[test]
fn files_cannot_stand_where_there_is_no_provider() {
    let found = faults(&json!("{{ input.photo | file_url }}"), Scope::RESULT);
    assert_eq!(found[0].1, "the filter `file_url` can only be used in what goes to a provider");
}

#[test]
fn other_scopes_have_other_variables() {
    let scope = Scope { variables: &["body", "status", "headers"], files: false };
    let template =
        Template::compile(&json!({"seed": "{{ body.seed }}", "ok": "{{ status == 200 }}"}), "", scope)
            .expect("a response template");
    let context = Context::new().with("body", &json!({"seed": 5})).with("status", &json!(200));
    let rendered = template.render(&context).expect("renders").resolve(&[]).expect("no files");
    assert_eq!(rendered, json!({"seed": 5, "ok": true}));
    assert!(Template::compile(&json!("{{ input.x }}"), "", scope).is_err());
}

#[test]
fn the_steps_a_template_reads_are_known() {
    let template = compile(&json!({
        "a": "{{ steps.front.file }}", "b": "x {{ steps[\"side-view\"].file }} {{ input.steps.no }}",
        "c": "{{ steps[input.prompt] }}",
    }));
    let reads: Vec<_> =
        template.reads().iter().map(|read| (read.path.as_str(), read.step.as_deref())).collect();
    assert_eq!(reads, [("/doc/a", Some("front")), ("/doc/b", Some("side-view")), ("/doc/c", None)]);
}

#[test]
fn limits_hold_when_saving() {
    let long = format!("{{{{ input.a }}}}{}", "x".repeat(MAX_TEMPLATE_BYTES));
    assert_eq!(faults(&json!(long), Scope::STEP)[0].1, "a template has at most 65536 bytes");
    let many: Vec<&str> = vec!["{{ input.a }}"; MAX_TEMPLATES + 1];
    assert_eq!(faults(&json!(many), Scope::STEP)[0].1, "at most 500 templates in one document");
    let mut deep = json!("{{ input.a }}");
    for _ in 0..=MAX_DEPTH {
        deep = json!([deep]);
    }
    assert_eq!(faults(&deep, Scope::STEP)[0].1, "nested deeper than 64");
    let nested = format!("{}{}", "{% if input.a %}".repeat(101), "{% endif %}".repeat(101));
    assert_eq!(faults(&json!(nested), Scope::STEP)[0].1, "a template has at most 200 statements");
}

#[test]
fn hostile_templates_end_soon_with_an_error() {
    let hostile = [
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{{ range(1000000000) | length }}",
        "{{ range(1000000000) }}",
        "{{ 'x' * 1000000000 }}",
        "{{ ('x' * 1000000) * 1000000 }}",
        "{{ [1] * 1000000000 }}",
        "{% set a = 'xxxxxxxxxx' %}{% for i in range(1000) %}{% set a = a ~ a %}{{ a * 100000 }}{% endfor %}",
        "{% for a in ['xxxxxxxxxxxxxxxxxxxxxxxxxxxxx' * 10000] %}{% for b in [a ~ a ~ a ~ a] %}{% for c in [b ~ b ~ b ~ b] %}\
         {{ c ~ c ~ c ~ c }}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ 'x' | indent(1000000000) }}",
        "{{ range(100000) | join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') }}",
        "{{ ('x' * 10000) | replace('x', 'y' * 10000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ [[range(100000), range(100000), range(100000), range(100000), range(100000), range(100000)]] }}",
        "{{ 10 ** 1000 }}",
        "{{ 1 / 0 }}",
    ];
    let begin = std::time::Instant::now();
    for template in hostile {
        let compiled = compile(&json!(template));
        assert!(compiled.render(&context()).is_err(), "{template}");
    }
    // Unoptimised, under load: a bound far below what any of these would take.
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}

#[test]
fn values_nested_without_end_are_refused() {
    let nest = format!("{{% set a = 1 %}}{}{{{{ a }}}}", "{% set a = [a] %}".repeat(150));
    assert_eq!(failure(&json!(nest)).message, "the rendered document is nested too deep");
}

#[test]
fn a_large_document_is_refused() {
    let part = "{{ 'x' * 1000000 }}";
    assert_eq!(failure(&json!([part, part, part, part, part])).message, "the rendered document is too large");
}

#[test]
fn an_error_names_the_template_that_failed() {
    let failed = failure(&json!({"ok": "{{ input.count }}", "bad": ["{{ 'a' / 2 }}"]}));
    assert_eq!(failed.path, "/doc/bad/0");
    assert!(!failed.message.is_empty());
}
