//! x
use super::Row;
use anyhow::Result;
/// x
pub fn faults() -> Result<Vec<Row>> {
    anyhow::bail!("not built yet")
}
