package replica

import (
	"slices"

	"github.com/firnlog/firn/record"
)

// View is what the controller decides on beside the record.
type View struct {
	// Eligible says that a broker is registered and the registration's epoch is
	// the unfenced one.
	Eligible func(record.BrokerID) bool
	// Leaving says that a broker is about to stop (KIP-841's controlled
	// shutdown) and should lead nothing that another can lead. nil: none is.
	Leaving func(record.BrokerID) bool
	// MinInsync is the topic's min.insync.replicas.
	MinInsync int
	// Unclean is the topic's unclean.leader.election.enable, or that somebody
	// asked for such an election (KIP-460).
	Unclean bool
}

func (v View) leaving(id record.BrokerID) bool { return v.Leaving != nil && v.Leaving(id) }

// Elect gives leader, ISR and ELR that follow from who is eligible, and whether
// that is a change. It may be called at any time and of any record.
//
// A leader that is in the ISR, eligible and not leaving stays. Else it is the
// first of the replicas, in their order, that is in the ISR and eligible; or
// else in the ELR and eligible (KIP-966); those that are leaving come after the
// others. Or else, with v.Unclean, any that is eligible, and then it alone is
// the ISR, since nobody knows what the others have. Or else None. Kafka's
// PartitionChangeBuilder.electAnyLeader has the same order.
//
// Who is not eligible leaves the ISR at once, so that the high watermark does
// not wait for him for replica.lag.time.max.ms; who is leaving, too, if that
// does not leave it empty. The leader epoch goes up when the leader is another
// one (or None), the partition epoch with any change.
func Elect(r Record, v View) (Record, bool) { return settle(r, v, None, false) }

// Loss is what a broker that registered has lost since it was last taken in.
type Loss uint8

const (
	// LostNothing: disk and boot of the machine are the ones of the unfenced
	// key. What was not synced is lost if the process crashed; no end that a
	// replica told its leader covers that.
	LostNothing Loss = iota
	// LostPageCache: the machine was started anew since. Partitions with
	// firn.ack.policy=replicated counted on what was in its page cache.
	LostPageCache
	// LostDisk: the disk is another one.
	LostDisk
)

// TakenIn gives the record that follows from a new registration of broker id,
// and whether it is a change. The controller writes it of each partition before
// it writes the broker's unfenced key: what a record says of a broker it says of
// the bytes on a disk.
//
// With its disk lost the broker leaves ISR and ELR. With its page cache lost it
// does so where the ack policy is replicated (fsync is false), unless nobody
// else is in either: then as much as is left is with the last one, and it stays
// (KIP-966's last known leader, without a field for it). A partition that it
// led gets a leader anew under the next epoch, be it the same broker, since the
// tail that its process lost was perhaps fetched by others under the old one.
// The broker counts as eligible, whatever v says of it; but unclean elections
// are left to Elect, when it is known who else came back.
func TakenIn(r Record, id record.BrokerID, loss Loss, fsync bool, v View) (Record, bool) {
	if !r.HasReplica(id) {
		return r, false
	}
	gone := None
	switch last := len(r.ISR)+len(r.ELR) == 1; {
	case loss == LostDisk, loss == LostPageCache && !fsync && !last:
		gone = id
	}
	eligible := v.Eligible
	v.Eligible = func(b record.BrokerID) bool { return b == id || eligible(b) }
	v.Unclean = false
	return settle(r, v, gone, r.Leader == id)
}

// Preferred gives leadership to the first replica of the target, if it is in
// the ISR, eligible and not leaving; false if it is not, or leads already.
func Preferred(r Record, v View) (Record, bool) {
	target := r.Target()
	if len(target) == 0 {
		return r, false
	}
	first := target[0]
	if r.Leader == first || r.Leader == None || !r.InISR(first) || !v.Eligible(first) || v.leaving(first) {
		return r, false
	}
	r.Leader = first
	r.Epoch++
	r.PartitionEpoch++
	return r, true
}

// settle is Elect, with gone taken out of ISR and ELR first; anew: the leader
// epoch goes up even if the leader is the same.
func settle(r Record, v View, gone record.BrokerID, anew bool) (Record, bool) {
	kept := r // what can still be counted on
	if gone != None {
		kept.ISR = without(r.ISR, []record.BrokerID{gone})
		kept.ELR = without(r.ELR, []record.BrokerID{gone})
	}
	leader, clean := choose(kept, v)
	var isr []record.BrokerID
	for _, id := range r.Replicas {
		if id == leader || clean && kept.InISR(id) && v.Eligible(id) && !v.leaving(id) {
			isr = append(isr, id)
		}
	}
	next := kept.withISR(isr, v.MinInsync)
	if !clean {
		next.ELR = nil // they have another history from here on
	}
	switch {
	case leader != r.Leader || anew:
		next.Leader = leader
		next.Epoch++
	case sameMembers(next.ISR, r.ISR) && sameMembers(next.ELR, r.ELR):
		return r, false
	}
	next.PartitionEpoch++
	return next, true
}

// choose gives the leader to be; clean is false for one that is neither in the
// ISR nor in the ELR.
func choose(r Record, v View) (leader record.BrokerID, clean bool) {
	if r.Leader != None && r.InISR(r.Leader) && v.Eligible(r.Leader) && !v.leaving(r.Leader) {
		return r.Leader, true
	}
	first := func(of []record.BrokerID, leaving bool) record.BrokerID {
		// Leadership does not go from one that leaves to another that does.
		if leaving && r.Leader != None && slices.Contains(of, r.Leader) && v.Eligible(r.Leader) {
			return r.Leader
		}
		for _, id := range r.Replicas {
			if slices.Contains(of, id) && v.Eligible(id) && v.leaving(id) == leaving {
				return id
			}
		}
		return None
	}
	for _, leaving := range []bool{false, true} {
		for _, of := range [][]record.BrokerID{r.ISR, r.ELR} {
			if id := first(of, leaving); id != None {
				return id, true
			}
		}
	}
	if v.Unclean {
		for _, leaving := range []bool{false, true} {
			if id := first(r.Replicas, leaving); id != None {
				return id, false
			}
		}
	}
	return None, true
}
