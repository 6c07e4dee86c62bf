//! The `proxy_*` host calls: arguments out of guest memory, work on plain state, results back.
//!
//! Statuses follow proxy-wasm-cpp-host's `exports.cc` and Envoy's `wasm/context.cc`.

use wasmtime::{Caller, Linker, Result, format_err};

use super::guest::{Guest, Refusal, length_of};
use super::{Status, encode_pairs, host_call, pairs};
use crate::attributes::{self, PropertyError};
use crate::expressions::{self, ForeignResult};
use crate::stats::MetricKind;
use crate::vm::HostState;
use crate::world::LogLevel;

type HostResult = Result<(), Refusal>;

/// The host function `$name` of module `env`, served by `$function`.
macro_rules! serve {
    ($linker:ident, $name:literal, $function:ident($($argument:ident: $type:ty),*)) => {
        $linker.func_wrap("env", $name, |caller: Caller<'_, HostState>, $($argument: $type),*| {
            host_call(caller, $name, |guest| $function(guest, $($argument),*))
        })?;
    };
}

/// Links every `proxy_*` function that is emulated.
pub(super) fn link(linker: &mut Linker<HostState>) -> Result<()> {
    serve!(linker, "proxy_log", log(level: u32, message: u32, size: u32));
    serve!(linker, "proxy_get_log_level", get_log_level(level_out: u32));
    serve!(linker, "proxy_get_current_time_nanoseconds", get_current_time(time_out: u32));
    serve!(linker, "proxy_set_tick_period_milliseconds", set_tick_period(period_ms: u32));
    serve!(linker, "proxy_set_effective_context", set_effective_context(context: u32));
    serve!(linker, "proxy_done", done());

    serve!(linker, "proxy_get_property", get_property(path: u32, path_size: u32, value_out: u32, size_out: u32));
    serve!(linker, "proxy_get_header_map_pairs", get_header_map_pairs(map: u32, pairs_out: u32, size_out: u32));
    serve!(linker, "proxy_get_header_map_value", get_header_map_value(map: u32, key: u32, key_size: u32, value_out: u32, size_out: u32));
    serve!(linker, "proxy_get_header_map_size", get_header_map_size(map: u32, size_out: u32));
    serve!(linker, "proxy_get_buffer_bytes", get_buffer_bytes(buffer: u32, start: u32, length: u32, data_out: u32, size_out: u32));
    serve!(linker, "proxy_get_buffer_status", get_buffer_status(buffer: u32, length_out: u32, flags_out: u32));
    serve!(linker, "proxy_get_status", get_status(code_out: u32, message_out: u32, size_out: u32));

    serve!(linker, "proxy_http_call", http_call(cluster: u32, cluster_size: u32, headers: u32, headers_size: u32, body: u32, body_size: u32, trailers: u32, trailers_size: u32, timeout_ms: u32, token_out: u32));
    serve!(linker, "proxy_call_foreign_function", call_foreign_function(name: u32, name_size: u32, arguments: u32, arguments_size: u32, result_out: u32, size_out: u32));

    serve!(linker, "proxy_define_metric", define_metric(kind: u32, name: u32, name_size: u32, id_out: u32));
    serve!(linker, "proxy_increment_metric", increment_metric(id: u32, offset: i64));
    serve!(linker, "proxy_record_metric", record_metric(id: u32, value: u64));
    serve!(linker, "proxy_get_metric", get_metric(id: u32, value_out: u32));

    serve!(linker, "proxy_get_shared_data", get_shared_data(key: u32, key_size: u32, value_out: u32, size_out: u32, cas_out: u32));
    serve!(linker, "proxy_set_shared_data", set_shared_data(key: u32, key_size: u32, value: u32, value_size: u32, cas: u32));
    Ok(())
}

fn log(guest: &mut Guest<'_>, level: u32, message: u32, size: u32) -> HostResult {
    let level = LogLevel::from_code(level).ok_or(Status::BadArgument)?;
    let message = guest.read(message, size)?;
    guest.state_mut().log(level, &message);
    Ok(())
}

fn get_log_level(guest: &mut Guest<'_>, level_out: u32) -> HostResult {
    let level = guest.state().world.log_level;
    Ok(guest.write_u32(level_out, level.code())?)
}

fn get_current_time(guest: &mut Guest<'_>, time_out: u32) -> HostResult {
    let now = guest.state().world.clock.unix_nanos;
    Ok(guest.write(time_out, &now.to_le_bytes())?)
}

fn set_tick_period(guest: &mut Guest<'_>, period_ms: u32) -> HostResult {
    let state = guest.state_mut();
    let root = state.vm.effective().root;
    state.vm.set_tick_period(root, u64::from(period_ms), state.world.clock.uptime_nanos);
    Ok(())
}

fn set_effective_context(guest: &mut Guest<'_>, context: u32) -> HostResult {
    let vm = &mut guest.state_mut().vm;
    if !vm.contexts.contains_key(&context) {
        return Err(Status::BadArgument.into());
    }
    vm.effective_context = context;
    Ok(())
}

fn done(guest: &mut Guest<'_>) -> HostResult {
    let vm = &mut guest.state_mut().vm;
    let root = vm.effective().root;
    if !vm.finish_pending_done(root) {
        return Err(Status::NotFound.into());
    }
    Ok(())
}

fn get_property(
    guest: &mut Guest<'_>,
    path: u32,
    path_size: u32,
    value_out: u32,
    size_out: u32,
) -> HostResult {
    let path = guest.read(path, path_size)?;
    let state = guest.state();
    let value = match attributes::property(&state.scope(state.vm.effective()), &path) {
        Ok(value) => value,
        Err(PropertyError::Status(status)) => return Err(status.into()),
        Err(PropertyError::NotEmulated(error)) => return Err(error.into()),
    };
    guest.return_bytes(&value, value_out, size_out)
}

/// Maps are numbered 0 to 7.
const MAX_HEADER_MAP: u32 = 7;

fn get_header_map_pairs(guest: &mut Guest<'_>, map: u32, pairs_out: u32, size_out: u32) -> HostResult {
    if map > MAX_HEADER_MAP {
        return Err(Status::BadArgument.into());
    }
    let vm = &guest.state().vm;
    let encoded = match vm.header_map(vm.effective(), map) {
        Some(headers) if !headers.is_empty() => encode_pairs(headers.iter()),
        // An absent map and an empty one look alike: no bytes at all.
        _ => Vec::new(),
    };
    guest.return_bytes(&encoded, pairs_out, size_out)
}

fn get_header_map_value(
    guest: &mut Guest<'_>,
    map: u32,
    key: u32,
    key_size: u32,
    value_out: u32,
    size_out: u32,
) -> HostResult {
    if map > MAX_HEADER_MAP {
        return Err(Status::BadArgument.into());
    }
    let key = guest.read(key, key_size)?;
    let vm = &guest.state().vm;
    let context = vm.effective();
    let value = match vm.header_map(context, map) {
        Some(headers) => headers.get(&key).ok_or(Status::NotFound)?.to_vec(),
        None if context.is_logging() => return Err(Status::NotFound.into()),
        None => return Err(Status::BadArgument.into()),
    };
    guest.return_bytes(&value, value_out, size_out)
}

fn get_header_map_size(guest: &mut Guest<'_>, map: u32, size_out: u32) -> HostResult {
    if map > MAX_HEADER_MAP {
        return Err(Status::BadArgument.into());
    }
    let vm = &guest.state().vm;
    let context = vm.effective();
    // Envoy looks only among the maps that could be changed, of which there are none while logging.
    let size = match vm.header_map(context, map) {
        Some(headers) if !context.is_logging() && map < 4 => headers.byte_size(),
        _ => return Err(Status::BadArgument.into()),
    };
    Ok(guest.write_u32(size_out, size)?)
}

/// Buffers are numbered 0 to 8.
const MAX_BUFFER: u32 = 8;

fn get_buffer_bytes(
    guest: &mut Guest<'_>,
    buffer: u32,
    start: u32,
    length: u32,
    data_out: u32,
    size_out: u32,
) -> HostResult {
    if buffer > MAX_BUFFER {
        return Err(Status::BadArgument.into());
    }
    let state = guest.state();
    let bytes = state.vm.buffer(state.vm.effective(), buffer)?.ok_or(Status::NotFound)?;
    let start = start as usize;
    let end = start.saturating_add(length as usize).min(bytes.len());
    let part = bytes.get(start..end).unwrap_or_default().to_vec();
    guest.return_bytes(&part, data_out, size_out)
}

fn get_buffer_status(guest: &mut Guest<'_>, buffer: u32, length_out: u32, flags_out: u32) -> HostResult {
    if buffer > MAX_BUFFER {
        return Err(Status::BadArgument.into());
    }
    let state = guest.state();
    let length = length_of(state.vm.buffer(state.vm.effective(), buffer)?.ok_or(Status::NotFound)?)?;
    guest.write_u32(length_out, length)?;
    Ok(guest.write_u32(flags_out, 0)?)
}

fn get_status(guest: &mut Guest<'_>, code_out: u32, message_out: u32, size_out: u32) -> HostResult {
    let vm = &guest.state().vm;
    let (code, message) = vm.call_status(vm.effective());
    guest.write_u32(code_out, code)?;
    guest.return_bytes(message.as_bytes(), message_out, size_out)
}

#[allow(clippy::too_many_arguments, reason = "the ABI's own signature")]
fn http_call(
    guest: &mut Guest<'_>,
    cluster: u32,
    cluster_size: u32,
    headers: u32,
    headers_size: u32,
    body: u32,
    body_size: u32,
    trailers: u32,
    trailers_size: u32,
    timeout_ms: u32,
    token_out: u32,
) -> HostResult {
    let cluster = guest.read(cluster, cluster_size)?;
    let headers = pairs::decode(&guest.read(headers, headers_size)?);
    let body = guest.read(body, body_size)?;
    guest.read(trailers, trailers_size)?;
    guest.write_u32(token_out, 0)?;
    let token = guest.state_mut().dispatch(&cluster, headers, body, timeout_ms)?;
    Ok(guest.write_u32(token_out, token)?)
}

fn call_foreign_function(
    guest: &mut Guest<'_>,
    name: u32,
    name_size: u32,
    arguments: u32,
    arguments_size: u32,
    result_out: u32,
    size_out: u32,
) -> HostResult {
    let name = guest.read(name, name_size)?;
    let arguments = guest.read(arguments, arguments_size)?;
    let outcome = expressions::call_foreign(guest.state_mut(), &name, &arguments)?;
    let (status, result) = match outcome {
        ForeignResult::Unknown => return Err(Status::NotFound.into()),
        ForeignResult::Refused(status) => (status, None),
        ForeignResult::Nothing => (Status::Ok, None),
        ForeignResult::Bytes(bytes) => (Status::Ok, Some(bytes)),
    };
    // The guest's out-pointers are optional, and are written whatever the status is.
    let (pointer, size) = match &result {
        Some(bytes) if result_out != 0 => (guest.place(bytes)?, length_of(bytes)?),
        Some(bytes) => (0, length_of(bytes)?),
        None => (0, 0),
    };
    if result_out != 0 {
        guest.write_u32(result_out, pointer)?;
    }
    if size_out != 0 {
        guest.write_u32(size_out, size)?;
    }
    if status == Status::Ok { Ok(()) } else { Err(status.into()) }
}

fn define_metric(guest: &mut Guest<'_>, kind: u32, name: u32, name_size: u32, id_out: u32) -> HostResult {
    let name = guest.read(name, name_size)?;
    let kind = MetricKind::from_code(kind).ok_or(Status::BadArgument)?;
    let name =
        String::from_utf8(name).map_err(|error| format_err!("a metric's name is not UTF-8: {error}"))?;
    let state = guest.state_mut();
    state.world.stats.define(kind, &name);
    let id = state.vm.metrics.define(kind, name);
    Ok(guest.write_u32(id_out, id)?)
}

fn increment_metric(guest: &mut Guest<'_>, id: u32, offset: i64) -> HostResult {
    let state = guest.state_mut();
    Ok(state.vm.metrics.increment(&mut state.world.stats, id, offset)?)
}

fn record_metric(guest: &mut Guest<'_>, id: u32, value: u64) -> HostResult {
    let state = guest.state_mut();
    Ok(state.vm.metrics.record(&mut state.world.stats, id, value)?)
}

fn get_metric(guest: &mut Guest<'_>, id: u32, value_out: u32) -> HostResult {
    let state = guest.state();
    let value = state.vm.metrics.get(&state.world.stats, id)?;
    Ok(guest.write(value_out, &value.to_le_bytes())?)
}

fn get_shared_data(
    guest: &mut Guest<'_>,
    key: u32,
    key_size: u32,
    value_out: u32,
    size_out: u32,
    cas_out: u32,
) -> HostResult {
    let key = guest.read(key, key_size)?;
    let (value, cas) = guest.state().world.shared_data.get(&key).ok_or(Status::NotFound)?;
    guest.return_bytes(&value, value_out, size_out)?;
    Ok(guest.write_u32(cas_out, cas)?)
}

fn set_shared_data(
    guest: &mut Guest<'_>,
    key: u32,
    key_size: u32,
    value: u32,
    value_size: u32,
    cas: u32,
) -> HostResult {
    let key = guest.read(key, key_size)?;
    let value = guest.read(value, value_size)?;
    Ok(guest.state_mut().world.shared_data.set(key, value, cas)?)
}
