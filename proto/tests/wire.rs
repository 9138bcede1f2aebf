//! Every rpc, field and enum value of etcd's client services is declared as etcd declares it, and
//! nothing else stands in etcd's packages. The table beside this file is the contract.

use std::collections::BTreeMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const TABLE: &str = include_str!("etcd-api.tsv");
const FACTS: usize = 343;
const ETCD_PACKAGES: [&str; 5] = ["etcdserverpb", "mvccpb", "authpb", "v3lockpb", "v3electionpb"];
const FILES: [&str; 5] = [
    "etcd/kv.proto",
    "etcd/auth.proto",
    "etcd/rpc.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
];

/// What is declared (kind, parent, name) and how (number, type, label, oneof; for an rpc its two
/// types, each followed by its streaming).
type Facts = BTreeMap<[String; 3], Vec<String>>;

#[test]
fn the_wire_is_etcds() {
    let wanted = wanted();
    assert_eq!(wanted.len(), FACTS, "the table lost or gained rows");
    let descriptors = protox::compile(FILES, [env!("CARGO_MANIFEST_DIR")]).unwrap();
    let declared = declared(&descriptors);
    for (fact, how) in &wanted {
        assert_eq!(declared.get(fact), Some(how), "{fact:?}");
    }
    for fact in declared.keys() {
        assert!(wanted.contains_key(fact), "unknown to etcd, in its package: {fact:?}");
    }
}

fn wanted() -> Facts {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| {
        let columns: Vec<String> = line.split('\t').map(str::to_owned).collect();
        let fact = [columns[0].clone(), columns[1].clone(), columns[2].clone()];
        (fact, columns[3..8].to_vec())
    })
    .collect()
}

fn declared(descriptors: &FileDescriptorSet) -> Facts {
    let mut facts = Facts::new();
    for file in &descriptors.file {
        assert!(ETCD_PACKAGES.contains(&file.package()), "{}", file.package());
        for message in &file.message_type {
            add_message(&mut facts, file.package(), message);
        }
        for values in &file.enum_type {
            add_enum(&mut facts, file.package(), values);
        }
        for service in &file.service {
            let parent = format!("{}.{}", file.package(), service.name());
            for rpc in &service.method {
                let request =
                    if rpc.client_streaming() { "client-stream" } else { "unary-request" };
                let answer =
                    if rpc.server_streaming() { "server-stream" } else { "unary-response" };
                let how =
                    ["", absolute(rpc.input_type()), request, absolute(rpc.output_type()), answer];
                add(&mut facts, ["rpc", &parent, rpc.name()], how);
            }
        }
    }
    facts
}

fn add_message(facts: &mut Facts, scope: &str, message: &DescriptorProto) {
    let parent = format!("{scope}.{}", message.name());
    for field in &message.field {
        let oneof = field.oneof_index.map_or("", |index| {
            let index = usize::try_from(index).expect("indices are not negative");
            message.oneof_decl[index].name()
        });
        let label = match field.label() {
            Label::Repeated => "repeated",
            _ if oneof.is_empty() => "singular",
            _ => "oneof",
        };
        let number = field.number().to_string();
        add(facts, ["field", &parent, field.name()], [&number, &type_of(field), label, oneof, ""]);
    }
    for values in &message.enum_type {
        add_enum(facts, &parent, values);
    }
    for nested in &message.nested_type {
        add_message(facts, &parent, nested);
    }
}

fn add_enum(facts: &mut Facts, scope: &str, values: &EnumDescriptorProto) {
    let parent = format!("{scope}.{}", values.name());
    for value in &values.value {
        let number = value.number().to_string();
        add(facts, ["enumvalue", &parent, value.name()], [&number, "", "", "", ""]);
    }
}

fn add(facts: &mut Facts, fact: [&str; 3], how: [&str; 5]) {
    let before = facts.insert(fact.map(str::to_owned), how.map(str::to_owned).to_vec());
    assert!(before.is_none(), "declared twice: {fact:?}");
}

fn type_of(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => absolute(field.type_name()).to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn absolute(name: &str) -> &str {
    name.trim_start_matches('.')
}
