//! stub
use crate::project::Project;
/// x
pub fn run(_: &Project) -> anyhow::Result<()> {
    Ok(())
}
