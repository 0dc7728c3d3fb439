package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

type ids = []record.BrokerID

// applied is the cluster after a plan, or after the first moves of it.
func applied(c Cluster, moves []Move) Cluster {
	at := map[record.TopicPartition]Move{}
	for _, m := range moves {
		at[m.TopicPartition] = m
	}
	c.Partitions = slices.Clone(c.Partitions)
	for i := range c.Partitions {
		if m, ok := at[c.Partitions[i].TopicPartition]; ok {
			c.Partitions[i].Replicas = m.To
		}
	}
	return c
}

func (c Cluster) broker(id record.BrokerID) Broker {
	return c.Brokers[slices.IndexFunc(c.Brokers, func(b Broker) bool { return b.ID == id })]
}

func (c Cluster) racksOf(replicas ids) int {
	racks := map[string]bool{}
	for _, id := range replicas {
		racks[c.broker(id).Rack] = true
	}
	return len(racks)
}

// check holds what is true of every plan.
func check(t interface {
	Helper()
	Fatalf(string, ...any)
}, c Cluster, o Options, plan Plan) {
	t.Helper()
	parts := map[record.TopicPartition]Partition{}
	for _, p := range c.Partitions {
		parts[p.TopicPartition] = p
	}
	drains := 0
	for _, m := range plan.Moves {
		p := parts[m.TopicPartition]
		delete(parts, m.TopicPartition) // each once
		if p.Fixed || !slices.Equal(m.From, p.Replicas) || slices.Equal(m.From, m.To) || len(m.To) != len(m.From) {
			t.Fatalf("%+v is no move of %+v", m, p)
		}
		drained, seen, fresh := false, map[record.BrokerID]bool{}, int64(0)
		for _, id := range m.From {
			drained = drained || c.broker(id).Drained && !slices.Contains(m.To, id)
		}
		for _, id := range m.To {
			if seen[id] {
				t.Fatalf("%+v: twice on one broker", m)
			}
			seen[id] = true
			if !slices.Contains(m.From, id) {
				fresh++
				if !c.broker(id).Usable {
					t.Fatalf("%+v: to broker %d, which cannot be used", m, id)
				}
			}
		}
		for _, id := range m.From {
			if b := c.broker(id); !b.Usable && !b.Drained && !seen[id] {
				t.Fatalf("%+v: away from broker %d, which is only not there", m, id)
			}
		}
		if drained {
			drains++
		} else if o.DrainOnly {
			t.Fatalf("%+v has nothing to do with draining", m)
		} else if c.racksOf(m.To) < c.racksOf(m.From) {
			t.Fatalf("%+v: %d racks, %d before", m, c.racksOf(m.To), c.racksOf(m.From))
		}
		if m.Bytes != fresh*p.Bytes {
			t.Fatalf("%+v: %d bytes for %d new replicas of %d", m, m.Bytes, fresh, p.Bytes)
		}
	}
	if o.Limit > 0 && len(plan.Moves) > o.Limit {
		t.Fatalf("%d moves, %d are allowed", len(plan.Moves), o.Limit)
	}
	after := applied(c, plan.Moves)
	if got := newState(after, 0).loads(); !reflect.DeepEqual(got, plan.After) {
		t.Fatalf("loads after it are %+v, the plan says %+v", got, plan.After)
	}
	// A partition's moves come to one here, and the racks of several to whole
	// numbers, so the least is counted for each move.
	if drains == 0 && plan.ScoreAfter > plan.ScoreBefore-Least*float64(len(plan.Moves))+1e-9 {
		t.Fatalf("score %v, %v before, after %d moves", plan.ScoreAfter, plan.ScoreBefore, len(plan.Moves))
	}
	if o.Limit > 0 {
		return
	}
	for _, p := range after.Partitions {
		for _, id := range p.Replicas {
			if c.broker(id).Drained && !p.Fixed && !slices.Contains(plan.Stuck, p.TopicPartition) {
				t.Fatalf("%v is still on broker %d", p.TopicPartition, id)
			}
		}
	}
	if again := Make(after, o); len(again.Moves) > 0 {
		t.Fatalf("after %d moves there are %+v", len(plan.Moves), again.Moves)
	}
}

// drawn is a cluster of any kind.
func drawn(t *rapid.T) Cluster {
	var c Cluster
	for i := range rapid.IntRange(1, 12).Draw(t, "brokers") {
		b := Broker{ID: record.BrokerID(7 * i), Rack: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "rack"), Usable: true}
		switch rapid.IntRange(0, 9).Draw(t, "state") {
		case 0:
			b.Usable = false
		case 1:
			b.Usable, b.Drained = false, true
		}
		c.Brokers = append(c.Brokers, b)
	}
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	crowd := 1 + rng.IntN(len(c.Brokers)) // all partitions are on the first so many
	most := 1 + rng.IntN(crowd)
	for i := range rapid.IntRange(0, 200).Draw(t, "partitions") {
		p := Partition{TopicPartition: record.TopicPartition{Topic: "t", Partition: record.PartitionID(i)}, Fixed: rng.IntN(20) == 0}
		for _, b := range rng.Perm(crowd)[:1+rng.IntN(most)] {
			p.Replicas = append(p.Replicas, c.Brokers[b].ID)
		}
		p.Bytes = int64(math.Exp(rng.Float64() * 26)) // up to 200 GB
		p.In, p.Out = int64(math.Exp(rng.Float64()*17)), int64(math.Exp(rng.Float64()*17))
		c.Partitions = append(c.Partitions, p)
	}
	return c
}

func TestPlans(t *testing.T) {
	moved, drained, stuck := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		c := drawn(t)
		o := Options{DrainOnly: rapid.Bool().Draw(t, "drain only"), Limit: rapid.SampledFrom([]int{0, 0, 1, 5}).Draw(t, "limit")}
		copied := Cluster{slices.Clone(c.Brokers), slices.Clone(c.Partitions)}
		for i := range copied.Partitions {
			copied.Partitions[i].Replicas = slices.Clone(c.Partitions[i].Replicas)
		}
		plan := Make(c, o)
		if !reflect.DeepEqual(c, copied) {
			t.Fatal("the cluster was changed")
		}
		check(t, c, o, plan)
		if len(plan.Moves) > 0 {
			moved++
		}
		if o.DrainOnly && len(plan.Moves) > 0 {
			drained++
		}
		stuck += len(plan.Stuck)
	})
	if moved == 0 || drained == 0 || stuck == 0 {
		t.Errorf("of the clusters tried none had moves (%d), or moves only to drain (%d), or partitions that are stuck (%d)", moved, drained, stuck)
	}
}

// A plan that is carried out a few moves at a time, and made anew each time,
// comes to an end, too, and there the whole one has nothing left to do.
func TestFewAtATime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawn(t)
		for rounds := 0; ; rounds++ {
			plan := Make(c, Options{Limit: 3})
			if len(plan.Moves) == 0 {
				break
			}
			if c = applied(c, plan.Moves); rounds > 10*len(c.Partitions) {
				t.Fatal("there is no end to it")
			}
		}
		if plan := Make(c, Options{}); len(plan.Moves) > 0 {
			t.Fatalf("left: %+v", plan.Moves)
		}
	})
}

// large is a cluster in which n partitions of three replicas are spread evenly
// over the first old of the brokers, which are in three racks.
func large(rng *rand.Rand, brokers, old, n int) Cluster {
	var c Cluster
	for i := range brokers {
		c.Brokers = append(c.Brokers, Broker{ID: record.BrokerID(i), Rack: fmt.Sprint(i % 3), Usable: true})
	}
	for i := range n {
		p := Partition{TopicPartition: record.TopicPartition{Topic: fmt.Sprint("t", i%100), Partition: record.PartitionID(i / 100)}}
		first := i % old
		for j := range 3 {
			p.Replicas = append(p.Replicas, record.BrokerID((first+j*(1+3*((i/old)%(old/3))))%old))
		}
		if p.Replicas[0] == p.Replicas[1] || p.Replicas[1] == p.Replicas[2] || p.Replicas[0] == p.Replicas[2] {
			p.Replicas = ids{record.BrokerID(first), record.BrokerID((first + 1) % old), record.BrokerID((first + 2) % old)}
		}
		p.Bytes = int64(5e9 * (0.5 + rng.Float64()))
		p.In, p.Out = int64(2e5*rng.Float64()), int64(4e5*rng.Float64())
		c.Partitions = append(c.Partitions, p)
	}
	return c
}

func share(loads []Load, of func(Load) float64) (least, most float64) {
	sum := 0.0
	least = math.Inf(1)
	for _, l := range loads {
		sum += of(l)
		least, most = min(least, of(l)), max(most, of(l))
	}
	mean := sum / float64(len(loads))
	return least / mean, most / mean
}

// Ten brokers join ninety: they get their part, nobody has much more or less
// than the mean, and little more is moved than what they get.
func TestBrokersJoin(t *testing.T) {
	const brokers, old, partitions = 100, 90, 10_000
	c := large(rand.New(rand.NewPCG(1, 2)), brokers, old, partitions)
	plan := Make(c, Options{})
	check(t, c, Options{}, plan)
	for name, of := range map[string]func(Load) float64{
		"replicas": func(l Load) float64 { return float64(l.Replicas) },
		"leaders":  func(l Load) float64 { return float64(l.Leaders) },
		"bytes":    func(l Load) float64 { return float64(l.Bytes) },
		"traffic":  func(l Load) float64 { return float64(l.Traffic) },
	} {
		least, most := share(plan.After, of)
		t.Logf("%s: %.2f to %.2f of the mean", name, least, most)
		if least < 0.75 || most > 1.25 {
			t.Errorf("%s: %.2f to %.2f of the mean", name, least, most)
		}
	}
	copied := 0
	for _, m := range plan.Moves {
		if m.Bytes > 0 {
			copied++
		}
	}
	needed := partitions * 3 * (brokers - old) / brokers
	t.Logf("%d of %d moves copy; the newcomers' part is %d", copied, len(plan.Moves), needed)
	if copied > needed*3/2 {
		t.Errorf("%d replicas are moved where %d would do", copied, needed)
	}
}

// A broker that is drained gives all it has, and only that is moved.
func TestDrain(t *testing.T) {
	c := large(rand.New(rand.NewPCG(3, 4)), 30, 30, 1000)
	c.Brokers[4].Usable, c.Brokers[4].Drained = false, true
	plan := Make(c, Options{DrainOnly: true})
	check(t, c, Options{DrainOnly: true}, plan)
	if len(plan.Moves) != plan.Before[4].Replicas || plan.After[4].Replicas != 0 || plan.After[4].Leaders != 0 || len(plan.Stuck) != 0 {
		t.Errorf("%d moves, before %+v, after %+v, %d stuck", len(plan.Moves), plan.Before[4], plan.After[4], len(plan.Stuck))
	}
	for _, m := range plan.Moves {
		if c.racksOf(m.To) != 3 {
			t.Errorf("%+v is in %d racks", m, c.racksOf(m.To))
		}
	}
}

func TestSmall(t *testing.T) {
	brokers := func(racks ...string) (out []Broker) {
		for i, r := range racks {
			out = append(out, Broker{ID: record.BrokerID(i + 1), Rack: r, Usable: true})
		}
		return out
	}
	parts := func(bytes int64, replicas ...ids) (out []Partition) {
		for i, r := range replicas {
			out = append(out, Partition{TopicPartition: record.TopicPartition{Topic: "t", Partition: record.PartitionID(i)}, Replicas: r, Carried: Carried{Bytes: bytes}})
		}
		return out
	}
	for name, c := range map[string]struct {
		c        Cluster
		moves    int
		replicas []int // after, by broker
		leaders  []int
	}{
		"nothing":              {Cluster{}, 0, []int{}, []int{}},
		"one broker":           {Cluster{brokers(""), parts(5, ids{1}, ids{1})}, 0, []int{2}, []int{2}},
		"as even as can be":    {Cluster{brokers("", "", ""), parts(5, ids{1}, ids{2})}, 0, []int{1, 1, 0}, []int{1, 1, 0}},
		"a second broker":      {Cluster{brokers("", ""), parts(5, ids{1}, ids{1}, ids{1}, ids{1})}, 2, []int{2, 2}, []int{2, 2}},
		"leaders only":         {Cluster{brokers("", ""), parts(5, ids{1, 2}, ids{1, 2}, ids{1, 2}, ids{1, 2})}, 2, []int{4, 4}, []int{2, 2}},
		"a rack of its own":    {Cluster{brokers("a", "a", "b"), parts(5, ids{1, 2})}, 1, nil, nil},
		"racks stand in a way": {Cluster{brokers("a", "b", "b"), parts(5, ids{1, 2}, ids{1, 2}, ids{1, 3}, ids{1, 3})}, 3, []int{4, 2, 2}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			plan := Make(c.c, Options{})
			check(t, c.c, Options{}, plan)
			if len(plan.Moves) != c.moves {
				t.Errorf("%d moves, want %d: %+v", len(plan.Moves), c.moves, plan.Moves)
			}
			var r, l []int
			for _, b := range plan.After {
				r, l = append(r, b.Replicas), append(l, b.Leaders)
			}
			if c.replicas != nil && !slices.Equal(r, c.replicas) || c.leaders != nil && !slices.Equal(l, c.leaders) {
				t.Errorf("replicas %v, leaders %v", r, l)
			}
		})
	}
}

// Bytes count from a gigabyte on.
func TestBytes(t *testing.T) {
	for _, size := range []int64{1 << 20, 1 << 33} {
		c := Cluster{Brokers: []Broker{{ID: 1, Usable: true}, {ID: 2, Usable: true}}}
		for i := range 6 { // broker 1 has the large ones
			p := Partition{TopicPartition: record.TopicPartition{Topic: "t", Partition: record.PartitionID(i)}, Replicas: ids{record.BrokerID(1 + i%2)}, Carried: Carried{Bytes: 1}}
			if i%2 == 0 {
				p.Bytes = size
			}
			c.Partitions = append(c.Partitions, p)
		}
		plan := Make(c, Options{})
		check(t, c, Options{}, plan)
		if moves := len(plan.Moves) > 0; moves != (size > 1<<30) {
			t.Errorf("with %d bytes each: %+v", size, plan.Moves)
		}
	}
}

func BenchmarkMake(b *testing.B) {
	for _, c := range []struct {
		name           string
		brokers, old   int
		drained, limit int
	}{{"even", 100, 99, 0, 0}, {"one joins", 100, 99, 0, 0}, {"ten join", 100, 90, 0, 0}, {"ten join, 5 moves", 100, 90, 0, 5}, {"half join", 100, 51, 0, 0}, {"one is drained", 100, 100, 1, 0}} {
		b.Run(c.name, func(b *testing.B) {
			cl := large(rand.New(rand.NewPCG(1, 2)), c.brokers, c.old, 10_000)
			for i := range c.drained {
				cl.Brokers[i].Usable, cl.Brokers[i].Drained = false, true
			}
			if c.name == "even" {
				cl = applied(cl, Make(cl, Options{}).Moves)
			}
			for b.Loop() {
				Make(cl, Options{Limit: c.limit})
			}
		})
	}
}
