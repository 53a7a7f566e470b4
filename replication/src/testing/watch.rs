//! What is looked at again and again while a world runs.

use super::world::World;
use crate::node::GateView;
use crate::node::backing::HOLDER_PATIENCE;
use crate::role::Data;
use crate::time::Mono;

impl World {
    /// The first difference between what the nodes hold, as far as they must agree.
    pub fn difference(&self) -> Option<String> {
        let (Some(one), Some(other)) = (self.contents(0), self.contents(1)) else {
            return Some("a node does not run".into());
        };
        if let Err(difference) = self.oracle.compare(&one, &other) {
            return Some(difference);
        }
        let pending = [0, 1].map(|node: usize| {
            let (secs, _) = self.clocks(node);
            let store = self.process(node).map(|process| &process.store)?;
            crate::store::Store::pending_flush(&**store).map(|at| at.saturating_sub(secs))
        });
        let slack = u32::try_from(self.oracle.slack.0 / 1_000_000).unwrap_or(u32::MAX);
        match pending {
            [None, None] => None,
            [Some(one), Some(other)] if one.abs_diff(other) <= slack => None,
            // It happens about now.
            [Some(left), None] | [None, Some(left)] if left <= slack => None,
            [one, other] => Some(format!("flushes in {one:?} and {other:?} seconds")),
        }
    }

    /// Memory stays within its bounds, and a node that is alone serves.
    pub(super) fn watch(&mut self) {
        for node in 0..2 {
            let (now, alone) = (self.now, self.processes[1 - node].is_none());
            let local = self.local(node);
            let bytes_max = self.options.backlog_bytes as u64;
            let patience = self.dead_after().scaled(6, 1) + self.disk_pause + self.network.delay_max;
            let Some(process) = &mut self.processes[node] else { continue };
            if process.backlog.bytes() > bytes_max {
                let bytes = process.backlog.bytes();
                self.oracle.violate(format!("a backlog of {bytes} bytes, where {bytes_max} are allowed"));
            }
            let arbitrated = self.arbiter.is_some();
            let Some(process) = &mut self.processes[node] else { continue };
            // With an arbiter, the other may hold more and only hang.
            let holds = process.node.claim().data == Data::Complete;
            let patience = match arbitrated && !holds {
                true => patience + self.options.heartbeat.scaled(25, 2).scaled(HOLDER_PATIENCE, 1),
                false => patience,
            };
            let serves = matches!(process.gate, GateView::Serve { until } if local < until);
            if !alone || serves || process.paused_until > now {
                process.idle_since = Mono::NEVER;
            } else {
                process.idle_since = process.idle_since.min(now.max(process.paused_until));
                if now.since(process.idle_since) > patience {
                    let state = process.node.role().state.name();
                    self.oracle.violate(format!("{node} is alone and serves nobody: it is {state}"));
                }
            }
        }
        let diverged = self.processes.iter().flatten().map(|process| process.node.counters().diverged);
        if diverged.sum::<u64>() > 0 {
            self.oracle.violate("the master found that its backup differs".into());
        }
        self.judge_copies();
        self.judge_role_changes();
    }

    /// Once a pair has found itself, a link that breaks costs no copy.
    fn judge_copies(&mut self) {
        if !self.options.gentle {
            return;
        }
        let mut copies = self.full_copies;
        for process in self.processes.iter().flatten() {
            copies += process.node.counters().full_copies;
        }
        match self.copies_when_settled {
            None if self.is_converged() => self.copies_when_settled = Some(copies),
            Some(before) if copies > before => {
                self.oracle.violate("everything was copied again for a broken link".into());
            }
            _ => {}
        }
    }

    /// Roles change for a reason.
    fn judge_role_changes(&mut self) {
        if self.promotions > 4 + 4 * self.strikes {
            let (promotions, strikes) = (self.promotions, self.strikes);
            self.oracle.violate(format!("{promotions} promotions for {strikes} faults"));
        }
    }
}
