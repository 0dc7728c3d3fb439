package replica

import (
	"slices"

	"github.com/firnlog/firn/record"
)

// None is the leader of a partition that has none.
const None record.BrokerID = -1

// Record is the partition record: what the metadata says of one partition.
// Whoever has one may keep it; nothing in this package changes its slices.
//
// Invariants: Replicas has no duplicates; ISR, ELR, Adding and Removing are
// subsets of it; ISR and ELR have nobody in common, nor have Adding and
// Removing; Leader is in the ISR or None.
type Record struct {
	Leader         record.BrokerID // None when there is none
	Epoch          record.Epoch    // goes up by one with each election
	PartitionEpoch int32           // goes up by one with each change of this value (KIP-497)
	// Revision is that of the key in etcd, which a change of the record has to
	// compare. A Record that a function of this package returns has the Revision
	// of the one it was made from.
	Revision int64
	Replicas []record.BrokerID // the first one is the preferred leader; all that follow, Adding and Removing too
	ISR      []record.BrokerID // in-sync replicas: each has all that is below the high watermark, durably
	ELR      []record.BrokerID // eligible leader replicas (KIP-966): the same holds, but they are not waited for
	Adding   []record.BrokerID // by a reassignment under way
	Removing []record.BrokerID // by a reassignment under way
	// Unfenced are the broker epochs under which Replicas are unfenced, in their
	// order, 0 for none; of the image that the rest is of, or of an earlier one.
	// Only a Leader needs them. They are no part of what is written.
	Unfenced []int64
}

// MinInsync is how many replicas the ISR must have for the high watermark to
// go up, given min.insync.replicas: not more than there are replicas (as
// Kafka's Partition.effectiveMinIsr), of which a reassignment under way counts
// neither those that are still to come nor those that are to go, so that moving
// a partition of one replica needs one replica throughout. At least 1.
func (r Record) MinInsync(configured int) int {
	return max(1, min(configured, len(r.Replicas)-len(r.Adding), len(r.Replicas)-len(r.Removing)))
}

// Reassigning says whether a reassignment is under way.
func (r Record) Reassigning() bool { return len(r.Adding) > 0 || len(r.Removing) > 0 }

// Target is what Replicas will be when the reassignment under way is complete.
func (r Record) Target() []record.BrokerID { return without(r.Replicas, r.Removing) }

// Original is what the replicas were before the reassignment under way, which
// is what cancelling it goes back to. Their order is that of Replicas.
func (r Record) Original() []record.BrokerID { return without(r.Replicas, r.Adding) }

// HasReplica says whether id is one of the replicas.
func (r Record) HasReplica(id record.BrokerID) bool { return slices.Contains(r.Replicas, id) }

// InISR says whether id is an in-sync replica.
func (r Record) InISR(id record.BrokerID) bool { return slices.Contains(r.ISR, id) }

// withISR is r with the ISR isr and the ELR that follows from it. As KIP-966
// has it (Kafka's PartitionChangeBuilder.maybePopulateTargetElr): an ISR of
// min.insync.replicas or more needs no ELR; who leaves a smaller one is in the
// ELR, since the high watermark does not go up without him.
func (r Record) withISR(isr []record.BrokerID, minInsync int) Record {
	var elr []record.BrokerID
	if len(isr) < r.MinInsync(minInsync) {
		for _, id := range r.Replicas {
			if !slices.Contains(isr, id) && (slices.Contains(r.ISR, id) || slices.Contains(r.ELR, id)) {
				elr = append(elr, id)
			}
		}
	}
	r.ISR, r.ELR = isr, elr
	return r
}

// without is ids less those of gone, in a slice of its own.
func without(ids, gone []record.BrokerID) []record.BrokerID {
	var out []record.BrokerID
	for _, id := range ids {
		if !slices.Contains(gone, id) {
			out = append(out, id)
		}
	}
	return out
}

// sameMembers says whether a and b, both without duplicates, have the same
// members in whatever order.
func sameMembers(a, b []record.BrokerID) bool {
	if len(a) != len(b) {
		return false
	}
	for _, id := range a {
		if !slices.Contains(b, id) {
			return false
		}
	}
	return true
}
