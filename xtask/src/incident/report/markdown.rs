//! The report for people: what is published is what is printed.

use crate::{
    bench::table,
    incident::{
        convoy,
        figures::{Figures, improvement},
        form::{Form, ServiceTimes},
        noise::Noise,
        report::Report,
        stall::Stalls,
    },
};

/// The incident's improvements, in per cent: what taking the log out of the request brought then.
const THEN: [(&str, f64); 3] = [("P95", 94.2), ("P99", 93.8), ("mean", 61.1)];

impl Report {
    /// For people.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = self.introduction();
        if !self.closed.is_empty() {
            text += &format!(
                "\n## Closed loop: {} users, {} requests\n\nRecords had up to {} s to arrive after a form's last answer, in each \
                 form.\n\n![Percentiles of the closed loop](closed-percentiles.svg)\n\n\
                 ![Histograms of the closed loop](closed-histograms.svg)\n\n{}\n{}\n{}",
                self.users,
                self.requests,
                self.closed_settle_seconds,
                tables(&self.closed),
                improvements(&self.closed),
                noise(&self.closed_noise, &self.closed),
            );
        }
        if !self.open.is_empty() {
            text += &format!(
                "\n## Open loop: {} requests/s for {:.0} s\n\nA client leaves {} s after its request was due: then its time is \
                 that, and would have been more. Records had up to {} s to arrive after a form's last answer, in each form.\n\n\
                 ![Percentiles of the open loop](open-percentiles.svg)\n\n![Histograms of the open loop](open-histograms.svg)\n\n\
                 {}\n{}",
                self.rate,
                self.open_loop_seconds,
                self.patience_seconds,
                self.settle_seconds,
                tables(&self.open),
                noise(&self.open_noise, &self.open),
            );
        }
        for answer in &self.questions {
            text += &format!(
                "\n## {}\n\n{} Records had up to {} s to arrive after a form's last answer, in each form.\n\n{}",
                answer.question,
                answer.how,
                answer.settle_seconds,
                tables(&answer.figures),
            );
        }
        for reason in &self.unanswered {
            text += &format!("\n## Unanswered\n\n{reason}\n");
        }
        text
    }

    fn introduction(&self) -> String {
        let Stalls { duration, probability, seed } = self.stalls;
        let ServiceTimes { median_ms, mean_ms, .. } = self.service_times;
        let threshold_ms = convoy::threshold_us(duration) / 1000;
        let late: Vec<String> =
            self.longest_standstill_ms.iter().map(|(part, ms)| format!("{part} {ms} ms")).collect();
        format!(
            "# The incident, reproduced: the report\n\n\
             Written by `cargo xtask incident`; [what it means](../incident.md).\n\n\
             - **Work**: lognormal, median {median_ms} ms, mean {mean_ms} ms, the same for the same request in each form (seed \
             {seed}).\n\
             - **Stalls**: a call of the database stalls for {duration:?} with probability {probability}. In-request and the \
             application queue write to PostgreSQL, where a trigger sleeps: for each statement, which is one row in a request and \
             a batch in the batch job. The edge writes to the collector's own database, SQLite, whose write lock is held from \
             outside after each batch that drew a stall, so that the next one waits; acknowledgements wait with it. What it stores in \
             one transaction may be many batches, each of which draws. With *stalls per row* each row of a batch draws. The queue of the application queue, a collector of its own, does not stall: it is \
             not the database.\n\
             - **Time** counts from when a request was due, so waiting to be sent is part of it.\n\
             - **Held up** is a request that took over {threshold_ms} ms longer than the same request did without logging (the median \
             of the copies): measured by the clients, in all forms alike. Requests that were held up at the same time are a \
             convoy. Its first waits for its own log, all *behind it* for another's, where there is a lock: in-request, and in \
             the application queue when requests write after all. Elsewhere no request waits for a log, and what is held up is \
             held up by the machine; so it is in the copies of no logging, which are counted, too.\n\
             - **Lost** are requests without a record that will not get one any more: not in a queue, nor in the memory of a \
             living application.\n\
             - **All forms run at the same time** if nothing else is said, each with its own users, application, Envoy and \
             database.\n\
             - **The machine**, {}, is in all figures: this command, which needs next to nothing, was late by at most: {}.\n",
            self.machine,
            late.join(", ")
        )
    }
}

fn tables(figures: &[Figures]) -> String {
    format!("{}\n{}\n{}", latencies(figures), requests(figures), records(figures))
}

fn latencies(figures: &[Figures]) -> String {
    let rows = figures.iter().map(|figures| {
        let latency = figures.latency.named().map(|(_, ms)| format!("{ms:.0}"));
        let convoys = match figures.convoys {
            Some(of) => [
                of.held_up.to_string(),
                of.waited_for_another.to_string(),
                format!("{} / {}", of.convoys, of.largest),
            ],
            None => ["–"; 3].map(str::to_owned),
        };
        [figures.name.clone()].into_iter().chain(latency).chain(convoys).collect()
    });
    let header = [
        "form",
        "mean ms",
        "P50",
        "P90",
        "P95",
        "P99",
        "P99.9",
        "max",
        "held up",
        "behind another",
        "convoys / largest",
    ];
    table::render(&header, rows)
}

fn requests(figures: &[Figures]) -> String {
    let rows = figures.iter().map(|figures| {
        let ends = figures.ends;
        vec![
            figures.name.clone(),
            ends.requests.to_string(),
            format!("{:.0}", ends.sent_late_p99_ms),
            figures.application.worked.to_string(),
            ends.answered_200.to_string(),
            ends.failed.to_string(),
            ends.gave_up.to_string(),
            format!("{:.0}", ends.total_seconds),
        ]
    });
    let header = [
        "requests",
        "sent",
        "99 % of them late by at most ms",
        "worked off by the application",
        "answered 200",
        "failed",
        "gave up",
        "total s",
    ];
    table::render(&header, rows)
}

fn records(figures: &[Figures]) -> String {
    let rows = figures.iter().filter(|figures| figures.form.stores()).map(|figures| {
        let records = figures.records;
        let fallbacks = match figures.form {
            Form::ApplicationQueue => figures.application.offers.fallbacks().to_string(),
            _ => "–".to_owned(),
        };
        vec![
            figures.name.clone(),
            figures.stalls.to_string(),
            fallbacks,
            records.stored.to_string(),
            records.twice.to_string(),
            records.missing.to_string(),
            records.answered_missing.to_string(),
            records.lost().to_string(),
            records.queued.to_string(),
            records.in_memory.to_string(),
            records.dropped.to_string(),
            format!("{:.1}", figures.settled_after_seconds),
        ]
    });
    let header = [
        "records",
        "stalls",
        "written by the request after all",
        "stored",
        "twice",
        "not stored",
        "of these answered 200",
        "lost",
        "still queued",
        "in the application's memory",
        "dropped and counted",
        "settled after s",
    ];
    table::render(&header, rows)
}

fn find<'a>(figures: &'a [Figures], name: &str) -> Option<&'a Figures> {
    figures.iter().find(|figures| figures.name == name)
}

fn improvements(figures: &[Figures]) -> String {
    let pairs = [
        ("edge (offpath)", "in-request"),
        ("application queue", "in-request"),
        ("edge (offpath), shorter service times", "in-request, shorter service times"),
    ];
    let rows = pairs.iter().filter_map(|(after, before)| {
        let (of_before, of_after) = (find(figures, before)?, find(figures, after)?);
        let percent = THEN.iter().filter_map(|(quantile, _)| {
            let value = |figures: &Figures| {
                figures.latency.named().into_iter().find(|(name, _)| name == quantile).map(|(_, ms)| ms)
            };
            Some(format!("{:.1} %", improvement(value(of_before)?, value(of_after)?)))
        });
        Some([(*after).to_owned()].into_iter().chain(percent).collect())
    });
    let then = [
        vec!["the incident's queue, as it was told".to_owned()],
        THEN.iter().map(|(_, percent)| format!("{percent} %")).collect(),
    ]
    .concat();
    format!(
        "How much less than in-request:\n\n{}",
        table::render(&["form", "P95", "P99", "mean"], [then].into_iter().chain(rows))
    )
}

fn noise(noise: &[Noise], figures: &[Figures]) -> String {
    let Some(edge) = find(figures, Form::Edge.name()) else { return String::new() };
    let copies = Noise::copies(figures, edge).len();
    if noise.is_empty() {
        return String::new();
    }
    let range = |from: f64, to: f64| format!("{from:+.2} to {to:+.2}");
    let rows = noise.iter().map(|noise| {
        vec![
            noise.name.to_owned(),
            table::number(noise.copies_ms),
            table::number(noise.form_ms),
            format!("{:+.2}", noise.difference_ms()),
            range(noise.difference_from_ms, noise.difference_to_ms),
            range(noise.noise_from_ms, noise.noise_to_ms),
            if noise.is_within() { "within" } else { "**outside**" }.to_owned(),
        ]
    });
    let header = [
        "ms",
        "no logging, mean of the copies",
        "edge",
        "difference",
        "of this 95 %",
        "noise",
        "the edge is",
    ];
    let outside: Vec<&str> =
        noise.iter().filter(|noise| !noise.is_within()).map(|noise| noise.name).collect();
    let verdict = if outside.is_empty() {
        "The edge is within the noise everywhere.".to_owned()
    } else {
        format!("The edge is **not** within the noise in: {}.", outside.join(", "))
    };
    format!(
        "How near the edge is to no logging: {copies} copies of *no logging* ran at the same time. The same request takes the same \
         service time in each lane, so lanes are compared on the same requests. These were drawn anew 1,000 times, with \
         replacement (a paired bootstrap). *Noise* is by how much one copy then differed from the mean of the others, in 95 of \
         100 draws; it holds what the copies differ by and the chance of the draw, so it is rather wide. The edge is within it when \
         its difference from the mean of all copies lies there; one line of ten may lie outside by chance, and a difference \
         whose own range holds 0 is none that can be seen. {verdict}\n\n{}",
        table::render(&header, rows)
    )
}
