//! stub
use crate::project::Project;
/// x
#[derive(clap::Args)]
pub struct Options {}
/// x
pub fn run(_: &Project, _: &Options) -> anyhow::Result<()> {
    Ok(())
}
