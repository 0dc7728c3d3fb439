package replica

import (
	"slices"

	"github.com/firnlog/firn/record"
)

// Reassign gives the record with which a move to the replicas target begins
// (KIP-455), and whether that is a change. target is not empty and has no
// duplicates. A move that is under way is replaced: what it added and target
// does not want is removed with the rest when the new one is complete. target
// equal to Record.Original ends the one under way so.
//
// Nobody leaves yet: all that are in Replicas follow, and Progress completes the
// move. The preferred leader is target's first from now on.
func Reassign(r Record, target []record.BrokerID) (Record, bool) {
	original := r.Original()
	adding, removing := without(target, original), without(r.Replicas, target)
	replicas := slices.Concat(target, removing)
	if slices.Equal(replicas, r.Replicas) && sameMembers(adding, r.Adding) && sameMembers(removing, r.Removing) {
		return r, false
	}
	r.Replicas, r.Adding, r.Removing, r.Unfenced = replicas, adding, removing, nil
	r.PartitionEpoch++
	return r, true
}

// Progress completes a reassignment that can be completed: every replica that
// it adds is in the ISR, and of the ISR so many stay as min.insync.replicas
// wants of the target, so that what was acknowledged is not on fewer (Kafka's
// PartitionReassignmentReplicas has the first rule only). A leader that goes
// hands over to one of the ISR that stays; while none of those is eligible the
// reassignment waits.
//
// When replicas go, the leader epoch goes up even under the same leader: one
// that is removed, drops its log and is added again must not be taken for what
// it was by a fetch from before (Kafka's
// triggerLeaderEpochBumpForReplicaReassignmentIfNeeded).
func Progress(r Record, v View) (Record, bool) {
	if !r.Reassigning() {
		return r, false
	}
	next := r
	next.Replicas, next.Adding, next.Removing, next.Unfenced = r.Target(), nil, nil, nil
	isr := without(r.ISR, r.Removing)
	for _, id := range r.Adding {
		if !slices.Contains(isr, id) {
			return r, false
		}
	}
	if len(isr) < next.MinInsync(v.MinInsync) {
		return r, false
	}
	next.ISR, next.ELR = isr, nil
	if !slices.Contains(isr, r.Leader) {
		next.Leader = None
		if next.Leader, _ = choose(next, View{Eligible: v.Eligible, Leaving: v.Leaving}); next.Leader == None {
			return r, false
		}
	}
	if len(r.Removing) > 0 {
		next.Epoch++
	}
	next.PartitionEpoch++
	return next, true
}
