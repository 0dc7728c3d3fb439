package api

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// modelSession is a fetch session in the plainest terms: a list of partitions
// and what was last said of each.
type modelSession struct {
	epoch int32
	order []fetchKey
	hw    map[fetchKey]int64 // last sent, -1 after an error
	logs  map[fetchKey]int64
}

// A session cache in which nothing is evicted behaves as the model does, over
// any sequence of requests and of things that happen to partitions.
func TestFetchSessionsLikeTheModel(t *testing.T) {
	img := &metastore.Image{Topics: map[string]*metastore.Topic{"a": {Name: "a"}}}
	rapid.Check(t, func(t *rapid.T) {
		sc := newSessionCache(1000, 10_000, time.Hour, time.Now)
		model := map[int32]*modelSession{}
		hw := map[int32]int64{} // the world: high watermark, log start, error of each partition
		logs := map[int32]int64{}
		failing := map[int32]bool{}
		partition := rapid.Int32Range(0, 4)
		key := func(p int32) fetchKey { return fetchKey{topic: "a", p: p} }

		// answer plays the reading of the partitions and gives the keys that had
		// records.
		answer := func(t *rapid.T, parts []*fetchPart) map[fetchKey]bool {
			data := map[fetchKey]bool{}
			for _, p := range parts {
				p.reply = fetchReply{extent: untold}
				if failing[p.key.p] {
					p.reply.code = kerr.NotLeaderForPartition.Code
					continue
				}
				p.reply.extent.HighWatermark, p.reply.extent.LogStart = record.Offset(hw[p.key.p]), record.Offset(logs[p.key.p])
				if rapid.Bool().Draw(t, "records") {
					p.reply.spans = []record.Span{{Bytes: []byte("x")}}
					data[p.key] = true
				}
			}
			return data
		}
		names := func(parts []*fetchPart) []fetchKey {
			var out []fetchKey
			for _, p := range parts {
				out = append(out, p.key)
			}
			return out
		}

		t.Repeat(map[string]func(*rapid.T){
			"partition moves": func(t *rapid.T) { hw[partition.Draw(t, "p")]++ },
			"log is trimmed":  func(t *rapid.T) { logs[partition.Draw(t, "p")]++ },
			"partition fails": func(t *rapid.T) { p := partition.Draw(t, "p"); failing[p] = !failing[p] },
			"full": func(t *rapid.T) {
				id, epoch := int32(0), int32(newSessionEpoch)
				if len(model) > 0 && rapid.Bool().Draw(t, "replaces") {
					id = rapid.SampledFrom(slices.Sorted(maps.Keys(model))).Draw(t, "id")
				}
				if rapid.Bool().Draw(t, "without a session") {
					epoch = noSessionEpoch
				}
				want := rapid.SliceOfN(partition, 0, 6).Draw(t, "partitions")
				var wanted []*fetchPart
				var distinctKeys []fetchKey
				for _, p := range want {
					wanted = append(wanted, &fetchPart{key: key(p)})
					if !slices.Contains(distinctKeys, key(p)) {
						distinctKeys = append(distinctKeys, key(p))
					}
				}
				delete(model, id)
				fc, err := sc.begin(id, epoch, false, wanted, nil, img)
				if err != nil {
					t.Fatal(err)
				}
				answer(t, fc.parts)
				got, parts, err := sc.finish(fc)
				if err != nil || !slices.Equal(names(parts), distinctKeys) {
					t.Fatalf("full reply names %v (%v), want %v", names(parts), err, distinctKeys)
				}
				if epoch == noSessionEpoch {
					if got != 0 {
						t.Fatalf("a session %d nobody asked for", got)
					}
					return
				}
				if got == 0 {
					t.Fatal("no session though there is room")
				}
				m := &modelSession{epoch: 1, order: distinctKeys, hw: map[fetchKey]int64{}, logs: map[fetchKey]int64{}}
				for _, p := range parts {
					m.hw[p.key], m.logs[p.key] = int64(p.reply.extent.HighWatermark), int64(p.reply.extent.LogStart)
				}
				model[got] = m
			},
			"unknown session": func(t *rapid.T) {
				id := rapid.Int32().Draw(t, "id")
				if model[id] != nil {
					return
				}
				if _, err := sc.begin(id, 1, false, nil, nil, img); err != kerr.FetchSessionIDNotFound {
					t.Fatalf("got %v", err)
				}
			},
			"incremental": func(t *rapid.T) {
				if len(model) == 0 {
					return
				}
				id := rapid.SampledFrom(slices.Sorted(maps.Keys(model))).Draw(t, "id")
				m := model[id]
				if rapid.IntRange(0, 9).Draw(t, "wrong") == 0 {
					if _, err := sc.begin(id, m.epoch+1, false, nil, nil, img); err != kerr.InvalidFetchSessionEpoch {
						t.Fatalf("wrong epoch: %v", err)
					}
					if _, err := sc.begin(id, m.epoch, true, nil, nil, img); err != kerr.FetchSessionTopicIDError {
						t.Fatalf("ids in a session of names: %v", err)
					}
				}
				add := rapid.SliceOfN(partition, 0, 3).Draw(t, "add")
				forget := rapid.SliceOfN(partition, 0, 3).Draw(t, "forget")
				var wanted []*fetchPart
				var gone []fetchKey
				for _, p := range add {
					wanted = append(wanted, &fetchPart{key: key(p)})
					if !slices.Contains(m.order, key(p)) {
						m.order = append(m.order, key(p))
						m.hw[key(p)], m.logs[key(p)] = -1, -1
					}
				}
				for _, p := range forget {
					gone = append(gone, key(p))
					m.order = slices.DeleteFunc(m.order, func(k fetchKey) bool { return k == key(p) })
				}
				fc, err := sc.begin(id, m.epoch, false, wanted, gone, img)
				if err != nil {
					t.Fatal(err)
				}
				reads := m.order
				if len(m.order) == 0 { // it ends, and what was named is answered all the same
					for _, p := range add {
						if !slices.Contains(reads, key(p)) {
							reads = append(reads, key(p))
						}
					}
				}
				if !slices.Equal(names(fc.parts), reads) {
					t.Fatalf("reads %v, want %v", names(fc.parts), reads)
				}
				data := answer(t, fc.parts)
				got, parts, err := sc.finish(fc)
				if len(m.order) == 0 {
					delete(model, id)
					if got != 0 || err != nil {
						t.Fatalf("an empty session lives on as %d (%v)", got, err)
					}
					return
				}
				m.epoch++
				var want, back []fetchKey
				for _, k := range m.order {
					nowHW, nowLog := hw[k.p], logs[k.p]
					if failing[k.p] {
						nowHW, nowLog = -1, -1
					}
					if failing[k.p] || data[k] || m.hw[k] != nowHW || m.logs[k] != nowLog {
						want = append(want, k)
					}
					m.hw[k], m.logs[k] = nowHW, nowLog
					if data[k] {
						back = append(back, k)
					}
				}
				m.order = append(slices.DeleteFunc(m.order, func(k fetchKey) bool { return data[k] }), back...)
				if err != nil || got != id || !slices.Equal(names(parts), want) {
					t.Fatalf("session %d names %v (%v), want %v", got, names(parts), err, want)
				}
			},
			"": func(t *rapid.T) {
				sessions, parts := sc.count()
				want := 0
				for _, m := range model {
					want += len(m.order)
				}
				if sessions != len(model) || parts != want {
					t.Fatalf("%d sessions of %d partitions, want %d of %d", sessions, parts, len(model), want)
				}
			},
		})
	})
}

func makeSession(t *testing.T, sc *sessionCache, n int) int32 {
	t.Helper()
	var parts []*fetchPart
	for i := range n {
		parts = append(parts, &fetchPart{key: fetchKey{topic: "a", p: int32(i)}})
	}
	fc, err := sc.begin(0, newSessionEpoch, false, parts, nil, &metastore.Image{})
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := sc.finish(fc)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestFetchSessionEviction(t *testing.T) {
	now := time.Unix(1000, 0)
	sc := newSessionCache(2, 100, time.Minute, func() time.Time { return now })
	small, large := makeSession(t, sc, 2), makeSession(t, sc, 5)
	if makeSession(t, sc, 9) != 0 {
		t.Error("a session younger than the least age was evicted")
	}
	use := func(id, epoch int32) error {
		_, err := sc.begin(id, epoch, false, nil, nil, &metastore.Image{})
		return err
	}
	now = now.Add(50 * time.Second)
	if err := use(small, 1); err != nil {
		t.Fatal(err)
	}
	if err := use(large, 1); err != nil {
		t.Fatal(err)
	}
	now = now.Add(20 * time.Second) // old enough, but in use
	if makeSession(t, sc, 2) != 0 {
		t.Error("a session was evicted for one no larger")
	}
	mid := makeSession(t, sc, 3)
	if mid == 0 || use(small, 2) != kerr.FetchSessionIDNotFound || use(large, 2) != nil {
		t.Error("the smallest session should have gone")
	}
	now = now.Add(61 * time.Second)
	if makeSession(t, sc, 1) == 0 || use(mid, 1) == nil && use(large, 3) == nil {
		t.Error("an idle session should have gone")
	}
	if n, _ := sc.count(); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

func TestFetchSessionPartitionsAreBounded(t *testing.T) {
	sc := newSessionCache(10, 5, time.Minute, time.Now)
	refused := sessionsRefused.Get()
	if makeSession(t, sc, 6) != 0 || sessionsRefused.Get() != refused+1 {
		t.Error("a session above the limit was made")
	}
	id := makeSession(t, sc, 5)
	more := []*fetchPart{{key: fetchKey{topic: "b"}}}
	if _, err := sc.begin(id, 1, false, more, nil, &metastore.Image{}); err != kerr.FetchSessionIDNotFound {
		t.Errorf("a session grew above the limit: %v", err)
	}
	if s, p := sc.count(); s != 0 || p != 0 {
		t.Errorf("%d sessions of %d partitions are left", s, p)
	}
}

func TestSessionEpochs(t *testing.T) {
	for _, c := range [][2]int32{{-1, -1}, {0, 1}, {1, 2}, {1<<31 - 1, 1}} {
		if got := nextSessionEpoch(c[0]); got != c[1] {
			t.Error(fmt.Sprint(c, got))
		}
	}
}
