//! Envoy's foreign functions for CEL: `expr_create`, `expr_evaluate`, `expr_delete`.
//!
//! In comes the guest's argument, out go the bytes that Envoy returns. Expressions belong to the root context of the
//! context that is being called. Three corners differ from Envoy on purpose, for the CEL crate's sake: a string that is
//! not UTF-8 (Envoy's are bytes) is a CEL `bytes` here, which encodes alike but cannot be searched; header names are
//! looked up as they are written, and in Envoy whatever their case; `type(…)` can be returned, and in Envoy cannot.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::objects::Key;
use cel::{Context, Env, ParseErrors, Program, Value};
use chrono::DateTime;
use wasmtime::{Result, bail};

use crate::abi::{Status, encode_pairs};
use crate::attributes::{Attribute, STREAM_GROUPS, Scope, check_emulated};
use crate::vm::HostState;
use crate::world::{Cel, LogLevel};

/// What a foreign function did.
#[derive(Debug)]
pub(crate) enum ForeignResult {
    /// There is no function of that name.
    Unknown,
    /// It refused.
    Refused(Status),
    /// It succeeded and returned nothing.
    Nothing,
    /// It succeeded and returned bytes.
    Bytes(Vec<u8>),
}

/// Functions that Envoy has and this host does not emulate.
const NOT_EMULATED: [&[u8]; 7] = [
    b"verify_signature",
    b"sign",
    b"compress",
    b"uncompress",
    b"set_envoy_filter_state",
    b"clear_route_cache",
    b"declare_property",
];

/// What a module's expressions are compiled to and run in. Shared by all of its machines: a test starts hundreds, and to
/// parse an expression takes longer than to start one.
pub(crate) struct Compiler {
    env: Arc<Env>,
    programs: Mutex<HashMap<String, Arc<Program>>>,
}

impl Compiler {
    /// Nothing is compiled yet.
    pub(crate) fn new() -> Self {
        Self { env: Arc::new(Env::stdlib()), programs: Mutex::default() }
    }

    fn compile(&self, source: &str) -> Result<Arc<Program>, ParseErrors> {
        // A panic leaves no half of an entry behind.
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = programs.get(source) {
            return Ok(Arc::clone(known));
        }
        let program = Arc::new(Program::compile(source)?);
        programs.insert(source.to_owned(), Arc::clone(&program));
        Ok(program)
    }
}

/// One root context's expressions.
#[derive(Default)]
pub(crate) struct Expressions {
    programs: BTreeMap<u32, Arc<Program>>,
    next_token: u32,
}

/// `proxy_call_foreign_function` of `name`.
pub(crate) fn call_foreign(state: &mut HostState, name: &[u8], argument: &[u8]) -> Result<ForeignResult> {
    if NOT_EMULATED.contains(&name) {
        bail!("the foreign function `{}` is not emulated", String::from_utf8_lossy(name));
    }
    match (name, state.world.cel) {
        (b"expr_create", Cel::Built | Cel::FailsToEvaluate) => create(state, argument),
        (b"expr_evaluate", Cel::Built) => evaluate(state, argument),
        (b"expr_evaluate", Cel::FailsToEvaluate) => Ok(ForeignResult::Refused(Status::InternalFailure)),
        (b"expr_delete", Cel::Built | Cel::FailsToEvaluate) => Ok(delete(state, argument)),
        _ => Ok(ForeignResult::Unknown),
    }
}

fn create(state: &mut HostState, source: &[u8]) -> Result<ForeignResult> {
    let program = match std::str::from_utf8(source)
        .map_err(|error| error.to_string())
        .and_then(|source| state.vm.compiler.compile(source).map_err(|error| error.to_string()))
    {
        Ok(program) => program,
        Err(error) => {
            state.log(LogLevel::Info, format!("expr_create parse error: {error}").as_bytes());
            return Ok(ForeignResult::Refused(Status::BadArgument));
        }
    };
    check_program(program.expression())?;
    let expressions = &mut state.vm.current_root_mut().expressions;
    let token = expressions.next_token;
    expressions.next_token = token.wrapping_add(1);
    expressions.programs.insert(token, program);
    Ok(ForeignResult::Bytes(token.to_le_bytes().to_vec()))
}

fn evaluate(state: &mut HostState, argument: &[u8]) -> Result<ForeignResult> {
    let Some(token) = token(argument) else {
        return Ok(ForeignResult::Refused(Status::BadArgument));
    };
    let env = Arc::clone(&state.vm.compiler.env);
    let Some(program) = state.vm.current_root().expressions.programs.get(&token) else {
        return Ok(ForeignResult::Refused(Status::NotFound));
    };
    // Unlike properties, expressions are evaluated on the context that was called, not on the effective one.
    let scope = state.scope(state.vm.current());
    match program.execute(&activation(env, &scope)) {
        Ok(value) => Ok(encode(&value).map_or_else(ForeignResult::Refused, ForeignResult::Bytes)),
        Err(error) => {
            state.log(LogLevel::Debug, format!("expr_evaluate error: {error}").as_bytes());
            Ok(ForeignResult::Refused(Status::InternalFailure))
        }
    }
}

fn delete(state: &mut HostState, argument: &[u8]) -> ForeignResult {
    let Some(token) = token(argument) else {
        return ForeignResult::Refused(Status::BadArgument);
    };
    state.vm.current_root_mut().expressions.programs.remove(&token);
    ForeignResult::Nothing
}

fn token(argument: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(argument.try_into().ok()?))
}

/// The variables that an expression sees.
fn activation(env: Arc<Env>, scope: &Scope<'_>) -> Context<'static, 'static> {
    let mut context = Context::with_env(env);
    for name in STREAM_GROUPS.iter().chain(&["xds", "plugin_root_id"]) {
        if let Some(attribute) = scope.find(name) {
            context.add_variable_from_value(*name, value(attribute));
        }
    }
    context
}

/// An attribute as CEL sees it.
fn value(attribute: Attribute) -> Value {
    match attribute {
        Attribute::Bytes(bytes) => string(bytes),
        Attribute::Int(number) => Value::Int(number),
        Attribute::Uint(number) => Value::UInt(number),
        Attribute::Bool(flag) => Value::Bool(flag),
        Attribute::Duration(nanos) => Value::Duration(chrono::Duration::nanoseconds(nanos)),
        Attribute::Timestamp(nanos) => Value::Timestamp(DateTime::from_timestamp_nanos(nanos).fixed_offset()),
        Attribute::Headers(headers) => {
            let names = headers.iter().filter_map(|(name, _)| String::from_utf8(name.to_vec()).ok());
            let map: HashMap<Key, Value> = names
                .map(|name| (headers.get_joined(&name).unwrap_or_default(), name))
                .map(|(joined, name)| (Key::from(name), string(joined)))
                .collect();
            Value::from(map)
        }
        Attribute::Object(object) => {
            let fields = object.into_iter().map(|(name, field)| (Key::from(name), value(field)));
            // No attribute has such a name: it is what tells a group, which can't be encoded, from a map, which can.
            let map: HashMap<Key, Value> = fields.chain([(Key::Bool(true), Value::Null)]).collect();
            Value::from(map)
        }
    }
}

fn string(bytes: Vec<u8>) -> Value {
    match String::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(error) => Value::Bytes(Arc::new(error.into_bytes())),
    }
}

/// The bytes that the guest gets for a result, as Envoy's `serializeValue` writes them.
fn encode(value: &Value) -> Result<Vec<u8>, Status> {
    Ok(match value {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Bytes(bytes) => bytes.to_vec(),
        Value::Int(number) => number.to_le_bytes().to_vec(),
        Value::UInt(number) => number.to_le_bytes().to_vec(),
        Value::Float(number) => number.to_le_bytes().to_vec(),
        Value::Bool(flag) => vec![u8::from(*flag)],
        Value::Duration(duration) => duration.num_nanoseconds().unwrap_or(i64::MAX).to_le_bytes().to_vec(),
        Value::Timestamp(time) => time.timestamp_nanos_opt().unwrap_or(i64::MAX).to_le_bytes().to_vec(),
        Value::List(items) => {
            let items = items
                .iter()
                .map(encode)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| Status::SerializationFailure)?;
            encode_pairs(items.iter().map(|item| (item.as_slice(), &b""[..])))
        }
        Value::Map(map) => {
            let pairs = map.map.iter().map(|(name, value)| Ok((encode(&Value::from(name))?, encode(value)?)));
            let pairs = pairs
                .collect::<Result<BTreeMap<_, _>, _>>()
                .map_err(|_: Status| Status::SerializationFailure)?;
            encode_pairs(pairs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())))
        }
        _ => return Err(Status::SerializationFailure),
    })
}

/// Refuses, by name, attributes that Envoy has and this host does not.
fn check_program(expression: &IdedExpr) -> Result<()> {
    match &expression.expr {
        Expr::Ident(name) => check_emulated(name, None)?,
        Expr::Select(select) => {
            if let Expr::Ident(group) = &select.operand.expr {
                check_emulated(group, Some(&select.field))?;
            }
            check_program(&select.operand)?;
        }
        Expr::Call(call) => {
            call.target.iter().map(AsRef::as_ref).chain(&call.args).try_for_each(check_program)?
        }
        Expr::List(list) => list.elements.iter().try_for_each(check_program)?,
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    check_program(&entry.key)?;
                    check_program(&entry.value)?;
                }
            }
        }
        Expr::Comprehension(comprehension) => {
            let parts = [
                &comprehension.iter_range,
                &comprehension.accu_init,
                &comprehension.loop_cond,
                &comprehension.loop_step,
                &comprehension.result,
            ];
            parts.into_iter().try_for_each(check_program)?;
        }
        Expr::Struct(_) => bail!("message literals are not emulated"),
        Expr::Literal(_) | Expr::Unspecified => {}
    }
    Ok(())
}
