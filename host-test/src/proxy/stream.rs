//! How a finished request reaches the plugin: one hook as an access logger, a whole stream as a filter.

use std::rc::Rc;

use wasmtime::{Result, bail, format_err};

use super::{Mode, Proxy};
use crate::request::{Reached, Request};
use crate::stream_info::{Headers, StreamInfo};
use crate::vm::{Phase, Vm};
use crate::world::{VmRole, World};

impl Proxy {
    /// Has a worker end a request, as the mode demands.
    pub(crate) fn finish_request(&mut self, worker: usize, request: Request) -> Result<()> {
        let Request { mut info, reached } = request;
        if info.start_unix_nanos == 0 {
            let took =
                info.duration.map_or(0, |duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
            info.start_unix_nanos = self.world.clock.unix_nanos.saturating_sub(took);
        }
        if self.is_drained {
            bail!("the listener is drained and takes no more requests");
        }
        if worker.saturating_add(1) >= self.vms.len() {
            bail!("there is no worker {worker}");
        }
        self.check_runs(VmRole::Worker(worker))?;
        if (self.mode, reached) == (Mode::HttpFilter, Reached::Nothing) {
            return Ok(());
        }
        let Some(index) = self.machine_for_request(worker) else {
            return Ok(());
        };
        let vm = self.vms.get_mut(index).ok_or_else(|| format_err!("there is no machine {index}"))?;
        let world = &mut self.world;
        match (self.mode, reached) {
            (Mode::AccessLogger, _) => match vm.active_root() {
                Some(root) => vm.log(world, root, Rc::new(info)),
                None => Ok(()),
            },
            (Mode::HttpFilter, Reached::Nothing | Reached::LocalReply) => {
                end_stream(vm, world, None, &Rc::new(info))
            }
            (Mode::HttpFilter, Reached::Plugin) => {
                let stream = pass_filter(vm, world, &info)?;
                end_stream(vm, world, stream, &Rc::new(info))
            }
        }
    }
}

/// The hooks of a stream up to its end, in Envoy's order, each with what is known by then.
fn pass_filter(vm: &mut Vm, world: &mut World, info: &StreamInfo) -> Result<Option<u32>> {
    let Some(id) = vm.create_stream() else {
        return Ok(None);
    };
    vm.announce_stream(world, id)?;
    let mut stream = Stream { vm, world, id };
    pass_request(&mut stream, info)?;
    pass_response(&mut stream, info)?;
    Ok(Some(id))
}

fn pass_request(stream: &mut Stream<'_>, info: &StreamInfo) -> Result<()> {
    let Some(headers) = &info.request_headers else {
        return Ok(());
    };
    // The route is chosen, and nothing has been sent anywhere.
    let unsent = StreamInfo {
        duration: None,
        response_code: None,
        response_code_details: None,
        response_flags: 0,
        backend_latency: None,
        bytes_sent: 0,
        upstream: None,
        attempt_count: 0,
        ..info.clone()
    };
    let unread = Rc::new(StreamInfo { bytes_received: 0, ..unsent.clone() });
    let is_last = u32::from(info.bytes_received == 0);
    stream.hook("proxy_on_request_headers", &unread, Phase::RequestHeaders, &[count(headers), is_last])?;
    if info.bytes_received > 0 {
        // The end comes on its own, as it does with HTTP/1.
        let unsent = Rc::new(unsent);
        for chunk in [[size(info.bytes_received), 0], [0, 1]] {
            stream.hook("proxy_on_request_body", &unsent, Phase::Body, &chunk)?;
        }
    }
    Ok(())
}

fn pass_response(stream: &mut Stream<'_>, info: &StreamInfo) -> Result<()> {
    let Some(headers) = &info.response_headers else {
        return Ok(());
    };
    let unended = StreamInfo { duration: None, backend_latency: None, ..info.clone() };
    let begun = Rc::new(StreamInfo { bytes_sent: 0, ..unended.clone() });
    let unended = Rc::new(unended);
    let has_trailers = info.response_trailers.is_some();
    let is_last = u32::from(info.bytes_sent == 0 && !has_trailers);
    stream.hook("proxy_on_response_headers", &begun, Phase::ResponseHeaders, &[count(headers), is_last])?;
    if info.bytes_sent > 0 {
        stream.hook("proxy_on_response_body", &unended, Phase::Body, &[size(info.bytes_sent), 0])?;
        if !has_trailers {
            stream.hook("proxy_on_response_body", &unended, Phase::Body, &[0, 1])?;
        }
    }
    if let Some(trailers) = &info.response_trailers {
        stream.hook("proxy_on_response_trailers", &unended, Phase::ResponseTrailers, &[count(trailers)])?;
    }
    Ok(())
}

/// A stream that passes the plugin.
struct Stream<'a> {
    vm: &'a mut Vm,
    world: &'a mut World,
    id: u32,
}

impl Stream<'_> {
    /// Calls a hook, which must let the request go on.
    fn hook(
        &mut self,
        hook: &'static str,
        info: &Rc<StreamInfo>,
        phase: Phase,
        arguments: &[u32],
    ) -> Result<()> {
        let scope = (Rc::clone(info), phase);
        match self.vm.in_stream(self.world, self.id, scope, hook, arguments)? {
            None | Some(0) => Ok(()),
            Some(action) => {
                bail!("the plugin returned action {action} from `{hook}` and would hold the request up")
            }
        }
    }
}

fn size(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn count(headers: &Headers) -> u32 {
    u32::try_from(headers.len()).unwrap_or(u32::MAX)
}

/// `on_log`, `on_done`, `on_delete`. A stream that the guest has not heard of is announced to it first.
fn end_stream(vm: &mut Vm, world: &mut World, stream: Option<u32>, info: &Rc<StreamInfo>) -> Result<()> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let Some(stream) = vm.create_stream() else {
                return Ok(());
            };
            vm.announce_stream(world, stream)?;
            stream
        }
    };
    vm.log(world, stream, Rc::clone(info))?;
    vm.destroy_stream(world, stream, Rc::clone(info))
}
