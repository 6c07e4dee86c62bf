//! What a machine's host calls work on: its contexts, what is in scope of each, ticks, and the answer at hand.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use wasmtime::{Result, StoreLimits, bail};

use crate::abi::Status;
use crate::attributes::Scope;
use crate::cluster::{Answer, Sender};
use crate::expressions::{Compiler, Expressions};
use crate::stats::MetricIds;
use crate::stream_info::{Headers, StreamInfo};
use crate::world::{LogLevel, LogLine, VmRole, World};

/// A plugin's configuration: what makes one root context different from another.
#[derive(Debug, Default)]
pub(crate) struct Plugin {
    pub(crate) root_id: String,
    pub(crate) configuration: Vec<u8>,
}

impl Plugin {
    /// The plugin's root id is a contract: the module is told apart by it where several are loaded.
    pub(crate) fn new(configuration: impl Into<Vec<u8>>) -> Self {
        Self { root_id: "offpath".to_owned(), configuration: configuration.into() }
    }
}

/// The data behind a machine's store.
pub(crate) struct HostState {
    /// The proxy's, for as long as a hook runs; empty in between.
    pub(crate) world: World,
    pub(crate) vm: VmState,
    pub(super) limits: StoreLimits,
}

/// What belongs to one machine.
pub(crate) struct VmState {
    pub(crate) role: VmRole,
    /// Its number among all machines that the proxy has started.
    pub(crate) number: u64,
    /// While the module's own initialization runs.
    pub(crate) starting: bool,
    pub(crate) contexts: BTreeMap<u32, Context>,
    pub(crate) effective_context: u32,
    /// Since the hook that runs was entered.
    pub(crate) calls_in_hook: u64,
    pub(crate) metrics: MetricIds,
    pub(crate) random: SmallRng,
    pub(crate) compiler: Arc<Compiler>,
    pub(super) current_context: u32,
    /// Envoy's context 0, which stands in where no other is being called.
    vm_context: Context,
    next_context: u32,
    next_call_token: u32,
    pub(super) configuring: bool,
    pub(super) ticks: BTreeMap<u32, Tick>,
    pub(super) reply: Option<Reply>,
    pub(super) done: Vec<u32>,
}

/// A context, root or stream.
#[derive(Default)]
pub(crate) struct Context {
    /// The root context that it belongs to: itself, for a root.
    pub(crate) root: u32,
    pub(crate) expressions: Expressions,
    pub(super) plugin: Rc<Plugin>,
    pub(super) stream: Option<(Rc<StreamInfo>, Phase)>,
    pub(super) pending_done: bool,
    /// Whether it belongs to one request rather than to the plugin.
    pub(super) is_stream: bool,
}

/// Which of a stream's header maps are at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    RequestHeaders,
    ResponseHeaders,
    ResponseTrailers,
    Log,
    /// A body, which this host does not have.
    Body,
    /// The end of the stream: no map at all.
    End,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Tick {
    pub(super) period_ms: u64,
    pub(super) due_nanos: u64,
}

/// The answer to a call, while the plugin looks at it.
pub(super) struct Reply {
    pub(super) root: u32,
    pub(super) answer: Answer,
}

impl Context {
    /// Whether the context is being called to log a request.
    pub(crate) fn is_logging(&self) -> bool {
        matches!(self.stream, Some((_, Phase::Log)))
    }
}

impl HostState {
    /// Appends a line to the proxy's log, as far as its level lets it through.
    pub(crate) fn log(&mut self, level: LogLevel, message: &[u8]) {
        if level >= self.world.log_level {
            let message = String::from_utf8_lossy(message).into_owned();
            self.world.log.push(LogLine { vm: self.vm.role, level, message });
        }
    }

    /// What `context` can read at the moment.
    pub(crate) fn scope<'a>(&'a self, context: &'a Context) -> Scope<'a> {
        let map = |index| self.vm.header_map(context, index);
        Scope {
            stream: context.stream.as_ref().map(|(info, _)| &**info),
            request_headers: map(0),
            response_headers: map(2),
            response_trailers: map(3),
            node: &self.world.node,
            root_id: &context.plugin.root_id,
            vm_id: &self.world.vm_id,
            is_stream: context.is_stream,
        }
    }

    /// `proxy_http_call`: the token of the call that is now under way.
    pub(crate) fn dispatch(
        &mut self,
        cluster: &[u8],
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        body: Vec<u8>,
        timeout_ms: u32,
    ) -> Result<u32, Status> {
        let timeout_ms = i32::try_from(timeout_ms).map_err(|_| Status::BadArgument)?;
        let token = self.vm.next_call_token;
        let root = self.vm.effective().root;
        let headers: Headers = headers.into_iter().collect();
        let clock = self.world.clock;
        let sender = Sender { role: self.vm.role, machine: self.vm.number, root, token };
        self.world.clusters.dispatch(sender, cluster, headers, body, timeout_ms.unsigned_abs(), clock)?;
        self.vm.next_call_token = token.wrapping_add(1);
        Ok(token)
    }
}

impl VmState {
    pub(super) fn new(role: VmRole, number: u64, seed: u64, compiler: Arc<Compiler>) -> Self {
        Self {
            role,
            number,
            starting: true,
            contexts: BTreeMap::new(),
            effective_context: 0,
            calls_in_hook: 0,
            metrics: MetricIds::default(),
            random: SmallRng::seed_from_u64(seed),
            compiler,
            current_context: 0,
            vm_context: Context::default(),
            next_context: 1,
            next_call_token: 1,
            configuring: false,
            ticks: BTreeMap::new(),
            reply: None,
            done: Vec::new(),
        }
    }

    /// The context that is being called.
    pub(crate) fn current(&self) -> &Context {
        self.contexts.get(&self.current_context).unwrap_or(&self.vm_context)
    }

    /// The context that the guest chose to act for, else the one that is being called.
    pub(crate) fn effective(&self) -> &Context {
        self.contexts.get(&self.effective_context).unwrap_or_else(|| self.current())
    }

    pub(crate) fn current_root(&self) -> &Context {
        self.contexts.get(&self.current().root).unwrap_or(&self.vm_context)
    }

    pub(crate) fn current_root_mut(&mut self) -> &mut Context {
        let root = self.current().root;
        self.contexts.get_mut(&root).unwrap_or(&mut self.vm_context)
    }

    /// The header map of that number, where `context` has it at the moment.
    pub(crate) fn header_map<'a>(&'a self, context: &'a Context, map: u32) -> Option<&'a Headers> {
        let stream = |phase| match &context.stream {
            Some((info, now)) if *now == phase || *now == Phase::Log => Some(info),
            _ => None,
        };
        match map {
            0 => stream(Phase::RequestHeaders)?.request_headers.as_ref(),
            2 => stream(Phase::ResponseHeaders)?.response_headers.as_ref(),
            3 => stream(Phase::ResponseTrailers)?.response_trailers.as_ref(),
            6 => self.reply_to(context)?.headers(),
            7 => self.reply_to(context)?.trailers(),
            _ => None,
        }
    }

    /// The buffer of that number, where `context` has it at the moment.
    pub(crate) fn buffer<'a>(&'a self, context: &'a Context, buffer: u32) -> Result<Option<&'a [u8]>> {
        Ok(match buffer {
            0 | 1 if matches!(context.stream, Some((_, Phase::Body))) => {
                bail!("request and response bodies are not emulated")
            }
            4 => self.reply_to(context).and_then(Answer::body),
            7 => self.configuring.then_some(context.plugin.configuration.as_slice()),
            _ => Some(&[]),
        })
    }

    /// How the last call of `context`'s root ended: a status and a message.
    pub(crate) fn call_status(&self, context: &Context) -> (u32, &'static str) {
        match self.reply_to(context) {
            Some(Answer::Reset) => (Status::BrokenConnection.code(), "reset"),
            _ => (Status::Ok.code(), ""),
        }
    }

    fn reply_to(&self, context: &Context) -> Option<&Answer> {
        self.reply.as_ref().filter(|reply| reply.root == context.root).map(|reply| &reply.answer)
    }

    /// A period of 0 stops the ticks.
    pub(crate) fn set_tick_period(&mut self, root: u32, period_ms: u64, uptime_nanos: u64) {
        if period_ms == 0 {
            self.ticks.remove(&root);
        } else {
            self.ticks.insert(root, Tick { period_ms, due_nanos: after_ms(uptime_nanos, period_ms) });
        }
    }

    /// `proxy_done`: whether that root context was waited for. It goes once the hook has returned.
    pub(crate) fn finish_pending_done(&mut self, root: u32) -> bool {
        match self.contexts.get_mut(&root) {
            Some(context) if context.pending_done => {
                context.pending_done = false;
                self.done.push(root);
                true
            }
            _ => false,
        }
    }

    pub(super) fn create_context(&mut self, context: Context) -> u32 {
        let id = self.next_context;
        self.next_context = id.wrapping_add(1);
        self.contexts.insert(id, context);
        id
    }
}

/// `ms` after `now_nanos`.
pub(crate) fn after_ms(now_nanos: u64, ms: u64) -> u64 {
    now_nanos.saturating_add(ms.saturating_mul(1_000_000))
}
