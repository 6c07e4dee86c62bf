//! What a probe is told to do: one step a line, a verb and its argument, in the order of the lines.
//!
//! ```text
//! property request.method
//! absent upstream.address
//! cel [request.method, response.code]
//! ```

/// One thing to do for each finished request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `property request.method`: a property that is there, by the raw import; the path is NUL-separated here.
    Property(Vec<u8>),
    /// `absent request.referer`: a property that is not there.
    Absent(Vec<u8>),
    /// `ask request.referer`: a property that may be there or not.
    Ask(Vec<u8>),
    /// `sdk-property request.method`: a property that is there, through the SDK's `get_property`.
    SdkProperty(Vec<String>),
    /// `headers`: all request headers at once.
    Headers,
    /// `response-headers`: all response headers at once.
    ResponseHeaders,
    /// `header :path`: one request header that is there.
    Header(String),
    /// `cel [request.method]`: a CEL expression, compiled once, evaluated for each request.
    Cel(String),
    /// `cel-fails 1/0`: a CEL expression that fails, which is a foreign call that returns nothing.
    CelFails(String),
    /// `counter`: one more in a counter of its own.
    Counter,
    /// `time`: the current time.
    Time,
}

/// A whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// In their order.
    pub steps: Vec<Step>,
    /// `arena`: what the host returns goes to one fixed piece of memory instead of to the allocator.
    pub uses_arena: bool,
    /// `stopwatch NAME`: the steps are timed, and the proxy's log is told under that name.
    pub stopwatch: Option<String>,
}

impl Script {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Names the line that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut script = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
            let argument = argument.trim();
            script.steps.push(match verb {
                "property" => Step::Property(path(argument)),
                "absent" => Step::Absent(path(argument)),
                "ask" => Step::Ask(path(argument)),
                "sdk-property" => Step::SdkProperty(argument.split('.').map(str::to_owned).collect()),
                "headers" => Step::Headers,
                "response-headers" => Step::ResponseHeaders,
                "header" => Step::Header(argument.to_owned()),
                "cel" => Step::Cel(argument.to_owned()),
                "cel-fails" => Step::CelFails(argument.to_owned()),
                "counter" => Step::Counter,
                "time" => Step::Time,
                "arena" => {
                    script.uses_arena = true;
                    continue;
                }
                "stopwatch" => {
                    script.stopwatch = Some(argument.to_owned());
                    continue;
                }
                _ => return Err(format!("unknown step `{line}`")),
            });
        }
        Ok(script)
    }
}

fn path(dotted: &str) -> Vec<u8> {
    dotted.bytes().map(|byte| if byte == b'.' { 0 } else { byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_the_order_of_their_lines() {
        let script =
            Script::parse("arena\nstopwatch x\nproperty request.method\n\n cel [a, b] \nheader :path\n")
                .unwrap();
        assert!(script.uses_arena);
        assert_eq!(script.stopwatch.as_deref(), Some("x"));
        assert_eq!(
            script.steps,
            [
                Step::Property(b"request\0method".to_vec()),
                Step::Cel("[a, b]".to_owned()),
                Step::Header(":path".to_owned()),
            ]
        );
    }

    #[test]
    fn an_unknown_step_is_named() {
        assert_eq!(Script::parse("time\nsleep 3").unwrap_err(), "unknown step `sleep 3`");
    }
}
