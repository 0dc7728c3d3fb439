package replica

import (
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

func only(of ...record.BrokerID) func(record.BrokerID) bool {
	return func(id record.BrokerID) bool { return slices.Contains(of, id) }
}

func TestElect(t *testing.T) {
	three := Record{Leader: 1, Epoch: 5, PartitionEpoch: 9, Replicas: ids(1, 2, 3), ISR: ids(1, 2, 3)}
	inELR := Record{Leader: None, Epoch: 5, PartitionEpoch: 9, Replicas: ids(1, 2, 3), ELR: ids(2)}
	for _, c := range []struct {
		name     string
		r        Record
		eligible []record.BrokerID
		leaving  []record.BrokerID
		min      int
		unclean  bool
		changed  bool
		leader   record.BrokerID
		newEpoch bool
		isr, elr []record.BrokerID
	}{
		{name: "all is well", r: three, eligible: ids(1, 2, 3), min: 2, leader: 1, isr: ids(1, 2, 3)},
		{name: "a follower died", r: three, eligible: ids(1, 2), min: 2, changed: true, leader: 1, isr: ids(1, 2)},
		{name: "the leader died", r: three, eligible: ids(2, 3), min: 2, changed: true, leader: 2, newEpoch: true, isr: ids(2, 3)},
		{name: "too few are left", r: three, eligible: ids(3), min: 2, changed: true, leader: 3, newEpoch: true, isr: ids(3), elr: ids(1, 2)},
		{name: "nobody is left", r: three, min: 2, changed: true, leader: None, newEpoch: true, elr: ids(1, 2, 3)},
		{name: "minimum of one, nobody is left", r: three, min: 1, changed: true, leader: None, newEpoch: true, elr: ids(1, 2, 3)},
		{name: "from the ELR", r: inELR, eligible: ids(1, 2, 3), min: 2, changed: true, leader: 2, newEpoch: true, isr: ids(2)},
		{name: "nobody that has it", r: inELR, eligible: ids(1, 3), min: 2, leader: None, elr: ids(2)},
		{name: "unclean", r: inELR, eligible: ids(1, 3), min: 2, unclean: true, changed: true, leader: 1, newEpoch: true, isr: ids(1)},
		{name: "unclean not needed", r: inELR, eligible: ids(1, 2, 3), min: 2, unclean: true, changed: true, leader: 2, newEpoch: true, isr: ids(2)},
		{name: "the leader leaves", r: three, eligible: ids(1, 2, 3), leaving: ids(1), min: 2, changed: true, leader: 2, newEpoch: true, isr: ids(2, 3)},
		{name: "a follower leaves", r: three, eligible: ids(1, 2, 3), leaving: ids(3), min: 2, changed: true, leader: 1, isr: ids(1, 2)},
		{name: "everybody leaves", r: three, eligible: ids(1, 2, 3), leaving: ids(1, 2, 3), min: 2, changed: true, leader: 1, isr: ids(1), elr: ids(2, 3)},
		{name: "the last one leaves", r: Record{Leader: 1, Epoch: 5, PartitionEpoch: 9, Replicas: ids(1), ISR: ids(1)}, eligible: ids(1), leaving: ids(1), min: 2, leader: 1, isr: ids(1)},
		{name: "the minimum was lowered", r: Record{Leader: 1, Epoch: 5, PartitionEpoch: 9, Replicas: ids(1, 2), ISR: ids(1), ELR: ids(2)}, eligible: ids(1), min: 1, changed: true, leader: 1, isr: ids(1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, changed := Elect(c.r, View{Eligible: only(c.eligible...), Leaving: only(c.leaving...), MinInsync: c.min, Unclean: c.unclean})
			if changed != c.changed || got.Leader != c.leader {
				t.Errorf("changed %v, leader %d", changed, got.Leader)
			}
			wantSets(t, got, c.isr, c.elr)
			if (got.Epoch == 6) != c.newEpoch || (got.PartitionEpoch == 10) != c.changed {
				t.Errorf("epoch %d, partition epoch %d", got.Epoch, got.PartitionEpoch)
			}
			if again, changed := Elect(got, View{Eligible: only(c.eligible...), Leaving: only(c.leaving...), MinInsync: c.min, Unclean: c.unclean}); changed {
				t.Errorf("and again: %+v", again)
			}
		})
	}
}

func TestTakenIn(t *testing.T) {
	three := Record{Leader: 1, Epoch: 5, PartitionEpoch: 9, Replicas: ids(1, 2, 3), ISR: ids(1, 2, 3)}
	last := Record{Leader: None, Epoch: 5, PartitionEpoch: 9, Replicas: ids(1, 2, 3), ELR: ids(2)}
	for _, c := range []struct {
		name     string
		r        Record
		id       record.BrokerID
		loss     Loss
		fsync    bool
		changed  bool
		leader   record.BrokerID
		epoch    record.Epoch
		isr, elr []record.BrokerID
	}{
		{name: "the leader's process", r: three, id: 1, loss: LostNothing, fsync: true, changed: true, leader: 1, epoch: 6, isr: ids(1, 2, 3)},
		{name: "a follower's process", r: three, id: 2, loss: LostNothing, fsync: true, leader: 1, epoch: 5, isr: ids(1, 2, 3)},
		{name: "the leader's disk", r: three, id: 1, loss: LostDisk, fsync: true, changed: true, leader: 2, epoch: 6, isr: ids(2, 3)},
		{name: "a follower's disk", r: three, id: 3, loss: LostDisk, fsync: true, changed: true, leader: 1, epoch: 5, isr: ids(1, 2)},
		{name: "page cache, fsync", r: three, id: 2, loss: LostPageCache, fsync: true, leader: 1, epoch: 5, isr: ids(1, 2, 3)},
		{name: "page cache, replicated", r: three, id: 2, loss: LostPageCache, changed: true, leader: 1, epoch: 5, isr: ids(1, 3)},
		{name: "the leader's page cache, replicated", r: three, id: 1, loss: LostPageCache, changed: true, leader: 2, epoch: 6, isr: ids(2, 3)},
		{name: "the last page cache", r: last, id: 2, loss: LostPageCache, changed: true, leader: 2, epoch: 6, isr: ids(2)},
		{name: "the last disk", r: last, id: 2, loss: LostDisk, changed: true, leader: None, epoch: 5},
		{name: "not in the ELR", r: last, id: 3, loss: LostNothing, leader: None, epoch: 5, elr: ids(2)},
		{name: "from the ELR", r: last, id: 2, loss: LostNothing, changed: true, leader: 2, epoch: 6, isr: ids(2)},
		{name: "no replica", r: three, id: 4, loss: LostDisk, leader: 1, epoch: 5, isr: ids(1, 2, 3)},
	} {
		t.Run(c.name, func(t *testing.T) {
			eligible := without(ids(1, 2, 3), ids(c.id))
			if c.r.Leader == None {
				eligible = ids(3)
			}
			got, changed := TakenIn(c.r, c.id, c.loss, c.fsync, View{Eligible: only(eligible...), MinInsync: 2, Unclean: true})
			if changed != c.changed || got.Leader != c.leader || got.Epoch != c.epoch {
				t.Errorf("changed %v, leader %d, epoch %d", changed, got.Leader, got.Epoch)
			}
			wantSets(t, got, c.isr, c.elr)
		})
	}
}

func TestPreferred(t *testing.T) {
	r := Record{Leader: 2, Epoch: 5, PartitionEpoch: 9, Replicas: ids(1, 2, 3), ISR: ids(1, 2)}
	got, changed := Preferred(r, View{Eligible: only(1, 2), MinInsync: 2})
	if !changed || got.Leader != 1 || got.Epoch != 6 || got.PartitionEpoch != 10 {
		t.Errorf("%+v", got)
	}
	wantSets(t, got, ids(1, 2), nil)
	if _, changed := Preferred(got, View{Eligible: only(1, 2)}); changed {
		t.Error("again")
	}
	for name, v := range map[string]View{
		"not eligible": {Eligible: only(2)},
		"leaving":      {Eligible: only(1, 2), Leaving: only(1)},
	} {
		if _, changed := Preferred(r, v); changed {
			t.Error(name)
		}
	}
	r.ISR = ids(2)
	if _, changed := Preferred(r, View{Eligible: only(1, 2)}); changed {
		t.Error("not in the ISR")
	}
}

func TestReassign(t *testing.T) {
	r := Record{Leader: 1, Epoch: 5, PartitionEpoch: 9, Replicas: ids(1, 2, 3), ISR: ids(1, 2, 3)}
	v := View{Eligible: only(1, 2, 3, 4, 5), MinInsync: 2}
	r, changed := Reassign(r, ids(4, 5, 3))
	want := Record{Leader: 1, Epoch: 5, PartitionEpoch: 10, Replicas: ids(4, 5, 3, 1, 2), ISR: ids(1, 2, 3), Adding: ids(4, 5), Removing: ids(1, 2)}
	if !changed || !reflect.DeepEqual(r, want) {
		t.Fatalf("%+v", r)
	}
	if _, changed := Reassign(r, ids(4, 5, 3)); changed {
		t.Error("the same again")
	}
	r.ISR = ids(1, 2, 3, 4)
	if _, changed := Progress(r, v); changed {
		t.Error("complete without 5")
	}
	// Another one takes its place: 4 was added for nothing.
	other, _ := Reassign(r, ids(5, 1))
	if !sameMembers(other.Adding, ids(5)) || !sameMembers(other.Removing, ids(2, 3, 4)) || !slices.Equal(other.Original(), ids(1, 3, 2)) && !sameMembers(other.Original(), ids(1, 2, 3, 4)) {
		t.Errorf("%+v", other)
	}
	r.ISR = ids(1, 2, 3, 4, 5)
	done, changed := Progress(r, v)
	want = Record{Leader: 4, Epoch: 6, PartitionEpoch: 11, Replicas: ids(4, 5, 3), ISR: ids(3, 4, 5)}
	if !changed || done.Leader != 4 || done.Epoch != 6 || !slices.Equal(done.Replicas, want.Replicas) || done.Reassigning() {
		t.Errorf("%+v", done)
	}
	wantSets(t, done, ids(3, 4, 5), nil)
	if _, changed := Progress(r, View{Eligible: only(1, 2), MinInsync: 2}); changed {
		t.Error("complete though nobody can lead")
	}
}

func TestReassignKeepsTheMinimum(t *testing.T) {
	v := View{Eligible: only(1, 2, 3), MinInsync: 2}
	r, _ := Reassign(Record{Leader: 1, Epoch: 5, Replicas: ids(1, 2, 3), ISR: ids(1, 3)}, ids(1, 2))
	if _, changed := Progress(r, v); changed {
		t.Error("complete with one replica that has what two had")
	}
	r.ISR = ids(1, 2, 3)
	if done, changed := Progress(r, v); !changed || done.Leader != 1 || done.Epoch != 6 {
		t.Errorf("%+v", done) // a new epoch for the same leader: 3 may come back
	}
}

func TestCancel(t *testing.T) {
	v := View{Eligible: only(1, 2, 3), MinInsync: 1}
	r, _ := Reassign(Record{Leader: 1, Epoch: 5, Replicas: ids(1, 2), ISR: ids(1, 2)}, ids(3))
	r.ISR = ids(1, 2, 3)
	r, changed := Reassign(r, r.Original())
	if !changed || len(r.Adding) > 0 || !sameMembers(r.Removing, ids(3)) {
		t.Errorf("%+v", r)
	}
	if r, changed = Progress(r, v); !changed || !sameMembers(r.Replicas, ids(1, 2)) {
		t.Errorf("%+v", r)
	}
	wantSets(t, r, ids(1, 2), nil)
}

// invalid says which invariant of Record does not hold.
func invalid(r Record) string {
	subset := func(of []record.BrokerID) bool { return len(without(of, r.Replicas)) == 0 }
	sorted := slices.Sorted(slices.Values(r.Replicas))
	switch {
	case len(slices.Compact(sorted)) != len(r.Replicas):
		return "Replicas has duplicates"
	case !subset(r.ISR) || !subset(r.ELR) || !subset(r.Adding) || !subset(r.Removing):
		return "not a subset of Replicas"
	case len(without(r.ISR, r.ELR)) != len(r.ISR):
		return "somebody is in ISR and ELR"
	case len(without(r.Adding, r.Removing)) != len(r.Adding):
		return "somebody is in Adding and Removing"
	case r.Leader != None && !r.InISR(r.Leader):
		return "the leader is not in the ISR"
	case r.Leader == None && len(r.ISR) > 0:
		return "an ISR without a leader"
	}
	return ""
}

// TestRecordsStayValid: whatever is decided of whatever valid record gives a
// valid one, leaves the one it came from alone, and says so if it changed.
func TestRecordsStayValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := func(of []record.BrokerID, label string) []record.BrokerID {
			var out []record.BrokerID
			for _, id := range of {
				if rapid.Bool().Draw(t, label) {
					out = append(out, id)
				}
			}
			return out
		}
		everybody := ids(0, 1, 2, 3, 4)
		r := Record{Leader: None, Epoch: 5, PartitionEpoch: 9, Revision: 7}
		r.Replicas = append(some(rapid.Permutation(ids(0, 1, 2, 3)).Draw(t, "order"), "replica"), 4)
		r.ISR = some(r.Replicas, "isr")
		r.ELR = some(without(r.Replicas, r.ISR), "elr")
		r.Adding = some(r.Replicas, "adding")
		r.Removing = some(without(r.Replicas, r.Adding), "removing")
		if len(r.ISR) > 0 {
			r.Leader = rapid.SampledFrom(r.ISR).Draw(t, "leader")
		}
		v := View{
			Eligible: only(some(everybody, "eligible")...), Leaving: only(some(everybody, "leaving")...),
			MinInsync: rapid.IntRange(0, 4).Draw(t, "min"), Unclean: rapid.Bool().Draw(t, "unclean"),
		}
		before := r
		before.Replicas, before.ISR, before.ELR = slices.Clone(r.Replicas), slices.Clone(r.ISR), slices.Clone(r.ELR)
		var next Record
		var changed bool
		switch rapid.IntRange(0, 4).Draw(t, "function") {
		case 0:
			next, changed = Elect(r, v)
		case 1:
			next, changed = TakenIn(r, rapid.SampledFrom(everybody).Draw(t, "id"), Loss(rapid.IntRange(0, 2).Draw(t, "loss")), rapid.Bool().Draw(t, "fsync"), v)
		case 2:
			next, changed = Preferred(r, v)
		case 3:
			next, changed = Reassign(r, rapid.Permutation(append(some(ids(0, 1, 2, 3), "target"), 4)).Draw(t, "order of target"))
		case 4:
			next, changed = Progress(r, v)
		}
		if !reflect.DeepEqual(r, before) && len(r.Adding)+len(r.Removing) == 0 {
			t.Fatalf("the record itself changed: %+v, was %+v", r, before)
		}
		if bad := invalid(next); bad != "" {
			t.Fatalf("%s: %+v, from %+v", bad, next, r)
		}
		if next.Revision != r.Revision || (next.PartitionEpoch != r.PartitionEpoch) != changed {
			t.Fatalf("changed %v: %+v, from %+v", changed, next, r)
		}
		if next.Leader != r.Leader && next.Epoch != r.Epoch+1 {
			t.Fatalf("another leader in the same epoch: %+v, from %+v", next, r)
		}
	})
}
