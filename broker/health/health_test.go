package health

import (
	"slices"
	"strings"
	"testing"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

func ids(all ...record.BrokerID) []record.BrokerID { return all }

func part(topic string, want int, leader record.BrokerID, replicas, isr []record.BrokerID) Partition {
	return Partition{Topic: topic, Want: want, Record: replica.Record{Leader: leader, Replicas: replicas, ISR: isr}}
}

// well is a cluster of three in which all is as it should be.
func well() *Cluster {
	c := &Cluster{Controller: 1}
	for id := range record.BrokerID(3) {
		c.Brokers = append(c.Brokers, Broker{ID: id + 1})
		c.Members = append(c.Members, Member{Broker: id + 1, Leader: id == 1, Answers: true, CaughtUp: true})
	}
	c.Partitions = []Partition{part("a", 2, 1, ids(1, 2, 3), ids(1, 2, 3)), part("b", 1, 2, ids(2, 3), ids(2, 3))}
	return c
}

// Each thing that can be wrong is told, and forbids a restart where it must.
func TestWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*Cluster)
		problem string // in Problems, "" for none
		reason  string // in the reasons against a restart of broker 3, "" for none
	}{
		"nothing":            {func(*Cluster) {}, "", ""},
		"no controller":      {func(c *Cluster) { c.Controller = -1 }, "no controller", "no controller"},
		"fenced":             {func(c *Cluster) { c.Brokers[0].Fenced = true }, "", "broker 1 is starting"},
		"leaving":            {func(c *Cluster) { c.Brokers[0].Leaving = true }, "", "broker 1 is stopping"},
		"dead":               {func(c *Cluster) { c.Brokers = c.Brokers[1:] }, "broker 1 is not running", "broker 1 is not running"},
		"it is dead":         {func(c *Cluster) { c.Brokers = c.Brokers[:2] }, "broker 3 is not running", "broker 3 is not registered"},
		"offline":            {func(c *Cluster) { c.Partitions[1].Leader = -1 }, "1 partition has no leader", "1 partition without a leader, b-0"},
		"behind":             {func(c *Cluster) { c.Partitions[0].ISR = ids(1, 3) }, "1 partition is under-replicated", "1 partition with a replica that is not in sync, a-0"},
		"behind elsewhere":   {func(c *Cluster) { c.Partitions[0] = part("a", 1, 1, ids(1, 2), ids(1)) }, "under-replicated", "not in sync, a-0"},
		"under min":          {func(c *Cluster) { c.Partitions[0].ISR = ids(1) }, "1 partition has fewer in-sync", "not in sync"},
		"one copy":           {func(c *Cluster) { c.Partitions[1] = part("b", 1, 3, ids(3), ids(3)) }, "", "1 partition on no other broker, b-0"},
		"one copy elsewhere": {func(c *Cluster) { c.Partitions[1] = part("b", 1, 2, ids(2), ids(2)) }, "", ""},
		"min is all":         {func(c *Cluster) { c.Partitions[1].Want = 2 }, "", "as many as there are replicas, b-0"},
		"min is more":        {func(c *Cluster) { c.Partitions[0].Want = 9 }, "", "as many as there are replicas, a-0"},
		"two of a kind": {func(c *Cluster) {
			c.Partitions = append(c.Partitions, part("A", 1, 3, ids(3), ids(3)), part("b", 1, 3, ids(3), ids(3)))
		}, "", "2 partitions on no other broker, A-0 for one"},
		"a move": {func(c *Cluster) {
			c.Partitions[1].Replicas, c.Partitions[1].Adding = ids(2, 3, 1), ids(1)
		}, "", ""},
		"etcd silent":     {func(c *Cluster) { c.Members[0].Answers = false }, "broker 1 does not answer", "lose its quorum: 1 of 3"},
		"etcd behind":     {func(c *Cluster) { c.Members[0].CaughtUp = false }, "broker 1 is behind", "broker 1 is behind"},
		"etcd leaderless": {func(c *Cluster) { c.Members[1].Leader = false }, "etcd has no leader", "etcd has no leader"},
		"never run":       {func(c *Cluster) { c.Members = append(c.Members, Member{Broker: -1, Learner: true}) }, "never run", "never run"},
		"two members":     {func(c *Cluster) { c.Members = c.Members[1:] }, "", "lose its quorum: 1 of 2 voters would answer, 2 must"},
		"a client":        {func(c *Cluster) { c.Members = c.Members[:2] }, "", ""},
	} {
		cl := well()
		c.change(cl)
		if got := cl.Problems(); !tells(got, c.problem) {
			t.Errorf("%s: problems %q, want %q", name, got, c.problem)
		}
		r := cl.MayRestart(3, nil)
		if !tells(r.Reasons, c.reason) || r.May != (c.reason == "") {
			t.Errorf("%s: may %v, reasons %q, want %q", name, r.May, r.Reasons, c.reason)
		}
		if (len(r.Warnings) > 0) != (name == "a move") {
			t.Errorf("%s: warnings %q", name, r.Warnings)
		}
	}
}

// tells says whether something of all contains want, or is empty where want is.
func tells(all []string, want string) bool {
	if want == "" {
		return len(all) == 0
	}
	return slices.ContainsFunc(all, func(s string) bool { return strings.Contains(s, want) })
}

// A topic can be left out, and whoever leads something comes last.
func TestNext(t *testing.T) {
	c := well()
	if r := c.Next(nil); !r.May || r.Broker != 3 {
		t.Errorf("%+v", r)
	}
	c.Partitions = append(c.Partitions, part("single", 1, 3, ids(3), ids(3)))
	if r := c.Next(nil); !r.May || r.Broker != 1 {
		t.Errorf("%+v", r)
	}
	if r := c.Next([]string{"single"}); !r.May || r.Broker != 3 {
		t.Errorf("%+v", r)
	}
	c.Controller = -1
	if r := c.Next(nil); r.May || r.Broker != 1 {
		t.Errorf("%+v", r)
	}
	if r := (&Cluster{}).Next(nil); r.May || len(r.Reasons) == 0 {
		t.Errorf("%+v", r)
	}
}

func TestCounts(t *testing.T) {
	c := well()
	c.Partitions[0].ISR = ids(1, 3)
	c.Partitions[1].Leader, c.Partitions[1].ISR = replica.None, nil
	if got, want := c.Count(), (Counts{Offline: 1, UnderReplicated: 2, UnderMin: 1, AtMin: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
