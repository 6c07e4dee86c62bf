//! offpath as a native dynamic module: the same core as the wasm plugin's, in Envoy's own process.
//!
//! Envoy loads the library twice over, and both parts find each other in it:
//!
//! - as an **access logger** (`logger`), one on each worker thread. What a request leaves is fetched (`fetch`) without a
//!   virtual machine in between, and goes into that worker's own pipeline;
//! - as a **bootstrap extension** (`exporter`) on the main thread, for loggers can neither call a cluster nor be called by a
//!   timer. It ticks all pipelines, makes their calls, hands them the answers, and holds up Envoy's end until they are empty.
//!
//! `hooks` are the functions that Envoy calls, `abi` those that it has; unsafe code is in these two only. A panic does not
//! leave a hook: the worker's pipeline is replaced, and what it held is counted.

mod logger;

mod fetch;

mod exporter;

mod statistics;

mod hooks;

mod panic;

mod abi;
