//! A configured probe: its script with expressions compiled and counters defined, run once for each finished request.

use std::{cell::RefCell, time::Instant};

use crate::{
    host,
    script::{Script, Step},
    stopwatch::Stopwatch,
};

/// Counts, in the proxy's own statistics, calls that did not end as the script says: a run with any is void.
const UNEXPECTED: &str = "probe_unexpected";

enum Ready {
    Property(Vec<u8>),
    Absent(Vec<u8>),
    Ask(Vec<u8>),
    #[cfg(feature = "sdk")]
    SdkProperty(Vec<String>),
    Headers,
    ResponseHeaders,
    Header(String),
    Cel([u8; 4]),
    CelFails([u8; 4]),
    Counter(u32),
    Time,
}

#[derive(Default)]
pub(crate) struct Probe {
    steps: Vec<Ready>,
    unexpected: Option<u32>,
    stopwatch: Option<RefCell<Stopwatch>>,
    #[cfg(not(feature = "sdk"))]
    pub(crate) uses_arena: bool,
}

impl Probe {
    pub(crate) fn configure(text: &str) -> Result<Self, String> {
        let script = Script::parse(text)?;
        let steps = script.steps.into_iter().enumerate().map(|(index, step)| ready(index, step));
        Ok(Self {
            steps: steps.collect::<Result<_, _>>()?,
            unexpected: host::define_counter(UNEXPECTED),
            stopwatch: script.stopwatch.map(|name| RefCell::new(Stopwatch::new(&name))),
            #[cfg(not(feature = "sdk"))]
            uses_arena: script.uses_arena,
        })
    }

    pub(crate) fn log(&self) {
        let Some(stopwatch) = &self.stopwatch else {
            return self.run();
        };
        // The ABI's own clock has no more than microseconds.
        let begin = Instant::now();
        self.run();
        let took_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if let Some(line) = stopwatch.borrow_mut().note(took_ns) {
            host::log_info(&line);
        }
    }

    fn run(&self) {
        for step in &self.steps {
            if !step.run()
                && let Some(unexpected) = self.unexpected
            {
                host::increment(unexpected);
            }
        }
    }
}

fn ready(index: usize, step: Step) -> Result<Ready, String> {
    let compiled = |text: &str| host::create_expression(text).ok_or(format!("cannot compile `{text}`"));
    Ok(match step {
        Step::Property(path) => Ready::Property(path),
        Step::Absent(path) => Ready::Absent(path),
        Step::Ask(path) => Ready::Ask(path),
        #[cfg(feature = "sdk")]
        Step::SdkProperty(path) => Ready::SdkProperty(path),
        #[cfg(not(feature = "sdk"))]
        Step::SdkProperty(_) => return Err("this build of the probe is without the SDK".to_owned()),
        Step::Headers => Ready::Headers,
        Step::ResponseHeaders => Ready::ResponseHeaders,
        Step::Header(name) => Ready::Header(name),
        Step::Cel(text) => Ready::Cel(compiled(&text)?),
        Step::CelFails(text) => Ready::CelFails(compiled(&text)?),
        Step::Counter => {
            let name = format!("probe_counter_{index}");
            Ready::Counter(host::define_counter(&name).ok_or(format!("cannot define `{name}`"))?)
        }
        Step::Time => Ready::Time,
    })
}

impl Ready {
    /// Whether the call ended as it should.
    fn run(&self) -> bool {
        match self {
            Self::Property(path) => host::property(path).is_some(),
            Self::Absent(path) => host::property(path).is_none(),
            Self::Ask(path) => {
                host::property(path);
                true
            }
            #[cfg(feature = "sdk")]
            Self::SdkProperty(path) => {
                let path = path.iter().map(String::as_str).collect();
                proxy_wasm::hostcalls::get_property(path).is_ok_and(|value| value.is_some())
            }
            Self::Headers => host::request_headers().is_some(),
            Self::ResponseHeaders => host::response_headers().is_some(),
            Self::Header(name) => host::request_header(name).is_some(),
            Self::Cel(token) => host::evaluate(*token).is_some(),
            Self::CelFails(token) => host::evaluate(*token).is_none(),
            Self::Counter(id) => host::increment(*id),
            Self::Time => host::now_unix_nano() > 0,
        }
    }
}
