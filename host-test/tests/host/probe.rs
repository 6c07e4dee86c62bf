//! Small guests that make the host calls a test lists, and report each one's status and results.

use offpath_host_test::{PluginModule, Proxy};
use std::fmt::Write as _;

/// One argument of a host call, or a place for one of its results.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    Int(u32),
    Long(u64),
    /// A pointer and a length.
    Bytes(Vec<u8>),
    /// Two out-pointers: for a pointer and for a length.
    OutBytes,
    /// An out-pointer for 4 bytes.
    OutU32,
    /// An out-pointer for 8 bytes.
    OutU64,
}

pub(crate) fn bytes(text: impl AsRef<[u8]>) -> Arg {
    Arg::Bytes(text.as_ref().to_vec())
}

/// What a host call returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: u32,
    pub(crate) results: Vec<Out>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    /// A null pointer of length 0.
    Null,
    Bytes(Vec<u8>),
    Int(u32),
    Long(u64),
}

/// A guest in the making: for each hook, the host calls that it makes.
#[derive(Default)]
pub(crate) struct Probe {
    hooks: Vec<(&'static str, u32, Vec<HostCall>)>,
}

/// A host function and its arguments.
type HostCall = (&'static str, Vec<Arg>);

impl Probe {
    /// A guest that makes one call in `on_log`.
    pub(crate) fn on_log(function: &'static str, arguments: &[Arg]) -> Self {
        Self::default().call("proxy_on_log", function, arguments)
    }

    /// Adds a call to a hook.
    pub(crate) fn call(mut self, hook: &'static str, function: &'static str, arguments: &[Arg]) -> Self {
        let call = (function, arguments.to_vec());
        match self.hooks.iter_mut().find(|(name, ..)| *name == hook) {
            Some((.., calls)) => calls.push(call),
            None => self.hooks.push((hook, 1, vec![call])),
        }
        self
    }

    /// Has a hook write its name into the log.
    pub(crate) fn logging(self, hook: &'static str) -> Self {
        self.call(hook, "proxy_log", &[Arg::Int(2), bytes(hook)])
    }

    /// Sets what a hook returns; 1 (`true`) otherwise.
    pub(crate) fn returning(mut self, hook: &'static str, value: u32) -> Self {
        match self.hooks.iter_mut().find(|(name, ..)| *name == hook) {
            Some((_, result, _)) => *result = value,
            None => self.hooks.push((hook, value, Vec::new())),
        }
        self
    }

    pub(crate) fn compile(&self) -> PluginModule {
        let wat = self.wat();
        PluginModule::compile(&wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))).unwrap()
    }

    /// What the calls of a hook returned, the last time that it ran.
    pub(crate) fn outcomes(&self, proxy: &Proxy, hook: &'static str) -> Vec<Outcome> {
        let (.., calls) = self.hooks.iter().find(|(name, ..)| *name == hook).unwrap();
        let report = proxy.shared_data(hook).unwrap_or_else(|| panic!("`{hook}` has not run to its end"));
        let mut rest = report.as_slice();
        let outcomes = calls.iter().map(|(_, arguments)| read_outcome(&mut rest, arguments)).collect();
        assert!(rest.is_empty());
        outcomes
    }

    fn wat(&self) -> String {
        let mut data = Vec::new();
        let mut imports = String::new();
        let mut hooks = String::new();
        let mut imported = Vec::new();
        for (hook, result, calls) in &self.hooks {
            let mut body = String::new();
            for (function, arguments) in calls {
                if !imported.contains(function) {
                    imported.push(*function);
                    import(&mut imports, function, arguments);
                }
                emit_call(&mut body, function, arguments, &mut data);
            }
            let key = place(&mut data, hook.as_bytes());
            let (parameters, returns) = signature(hook);
            let result = if returns { format!("(i32.const {result})") } else { String::new() };
            let returns = if returns { "(result i32)" } else { "" };
            writeln!(
                hooks,
                r#"(func (export "{hook}") (param {parameters}) {returns}
                     (global.set $out (i32.const {OUTPUT}))
                     {body}
                     (drop (call $report (i32.const {key}) (i32.const {}) (i32.const {OUTPUT})
                       (i32.sub (global.get $out) (i32.const {OUTPUT})) (i32.const 0)))
                     {result})"#,
                hook.len(),
            )
            .unwrap();
        }
        let data: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
        format!(
            r#"(module
                 (import "env" "proxy_set_shared_data" (func $report (param i32 i32 i32 i32 i32) (result i32)))
                 {imports}
                 (memory (export "memory") 16)
                 (data (i32.const {DATA}) "{data}")
                 (global $out (mut i32) (i32.const {OUTPUT}))
                 (global $heap (mut i32) (i32.const {HEAP}))
                 (func (export "proxy_abi_version_0_2_1"))
                 (func $malloc (export "malloc") (param $size i32) (result i32)
                   (local $start i32)
                   (local.set $start (global.get $heap))
                   (global.set $heap (i32.add (global.get $heap) (local.get $size)))
                   (local.get $start))
                 (func $emit (param $word i32)
                   (i32.store (global.get $out) (local.get $word))
                   (global.set $out (i32.add (global.get $out) (i32.const 4))))
                 (func $emit_bytes (param $pointer i32) (param $size i32)
                   (call $emit (local.get $pointer))
                   (call $emit (local.get $size))
                   (memory.copy (global.get $out) (local.get $pointer) (local.get $size))
                   (global.set $out (i32.add (global.get $out) (local.get $size))))
                 {hooks})"#
        )
    }
}

/// Where things lie in the guest's memory.
const RESULTS: usize = 0x100;
const DATA: usize = 0x1000;
const OUTPUT: usize = 0x20000;
const HEAP: usize = 0x40000;

fn place(data: &mut Vec<u8>, bytes: &[u8]) -> usize {
    data.extend(bytes);
    DATA + data.len() - bytes.len()
}

fn signature(hook: &str) -> (&'static str, bool) {
    match hook {
        "proxy_on_vm_start" | "proxy_on_configure" => ("i32 i32", true),
        "proxy_on_done" => ("i32", true),
        "proxy_on_context_create" => ("i32 i32", false),
        "proxy_on_request_headers" | "proxy_on_response_headers" => ("i32 i32 i32", true),
        "proxy_on_request_body" | "proxy_on_response_body" => ("i32 i32 i32", true),
        "proxy_on_response_trailers" => ("i32 i32", true),
        "proxy_on_http_call_response" => ("i32 i32 i32 i32 i32", false),
        "proxy_on_log" | "proxy_on_tick" | "proxy_on_delete" => ("i32", false),
        other => panic!("the probe does not know the hook {other}"),
    }
}

fn import(imports: &mut String, function: &str, arguments: &[Arg]) {
    let types: Vec<&str> = arguments
        .iter()
        .map(|argument| match argument {
            Arg::Int(_) | Arg::OutU32 | Arg::OutU64 => "i32",
            Arg::Long(_) => "i64",
            Arg::Bytes(_) | Arg::OutBytes => "i32 i32",
        })
        .collect();
    writeln!(
        imports,
        r#"(import "env" "{function}" (func ${function} (param {}) (result i32)))"#,
        types.join(" ")
    )
    .unwrap();
}

fn emit_call(body: &mut String, function: &str, arguments: &[Arg], data: &mut Vec<u8>) {
    let mut operands = String::new();
    let mut emitted = String::new();
    for (index, argument) in arguments.iter().enumerate() {
        let slot = RESULTS + 8 * index;
        let (first, second) = (slot, slot + 4);
        match argument {
            Arg::Int(value) => write!(operands, "(i32.const {value})").unwrap(),
            Arg::Long(value) => write!(operands, "(i64.const {value})").unwrap(),
            Arg::Bytes(bytes) => {
                let pointer = place(data, bytes);
                write!(operands, "(i32.const {pointer}) (i32.const {})", bytes.len()).unwrap();
            }
            Arg::OutBytes => {
                write!(operands, "(i32.const {first}) (i32.const {second})").unwrap();
                write!(
                    emitted,
                    "(call $emit_bytes (i32.load (i32.const {first})) (i32.load (i32.const {second})))"
                )
                .unwrap();
            }
            Arg::OutU32 | Arg::OutU64 => {
                write!(operands, "(i32.const {first})").unwrap();
                write!(emitted, "(call $emit (i32.load (i32.const {first})))").unwrap();
                if matches!(argument, Arg::OutU64) {
                    write!(emitted, "(call $emit (i32.load (i32.const {second})))").unwrap();
                }
            }
        }
        write!(body, "(i64.store (i32.const {slot}) (i64.const 0))").unwrap();
    }
    writeln!(body, "(call $emit (call ${function} {operands})) {emitted}").unwrap();
}

fn read_outcome(rest: &mut &[u8], arguments: &[Arg]) -> Outcome {
    let status = read_u32(rest);
    let results = arguments
        .iter()
        .filter_map(|argument| match argument {
            Arg::OutU32 => Some(Out::Int(read_u32(rest))),
            Arg::OutU64 => Some(Out::Long(u64::from(read_u32(rest)) | (u64::from(read_u32(rest)) << 32))),
            Arg::OutBytes => {
                let (pointer, size) = (read_u32(rest), read_u32(rest));
                let (bytes, tail) = rest.split_at(size as usize);
                *rest = tail;
                Some(if pointer == 0 { Out::Null } else { Out::Bytes(bytes.to_vec()) })
            }
            _ => None,
        })
        .collect();
    Outcome { status, results }
}

fn read_u32(rest: &mut &[u8]) -> u32 {
    let (word, tail) = rest.split_first_chunk().unwrap();
    *rest = tail;
    u32::from_le_bytes(*word)
}
