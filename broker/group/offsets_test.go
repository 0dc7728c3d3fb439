package group

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// offsetModel says what may be read back.
type offsetModel struct {
	t    *testing.T
	rng  *rand.Rand
	cfg  Config
	log  *memLog
	c    *Coordinator
	may  map[string]map[int64]time.Time // by "group topic partition": values, and when committed
	next int64

	members map[string]bool // what group m's description may be: "Stable A", "Empty"
	m       *consumer
	started time.Time // the coordinator that runs now
	crashes int
	trims   int
}

const modelRetention = time.Hour

func (o *offsetModel) open() {
	o.started = time.Now()
	o.c = New(o.cfg, Deps{})
	if err := o.c.Load(o.t.Context(), 0, o.log); err != nil {
		o.t.Fatal(err)
	}
	if o.m != nil {
		o.m.c = o.c
	}
	o.arm()
}

// arm makes the log die after some more changes.
func (o *offsetModel) arm() {
	o.log.mu.Lock()
	defer o.log.mu.Unlock()
	o.log.torn = o.rng.IntN(2) == 0
	o.log.left = o.rng.IntN(120)
}

// crashed starts anew if the log died, and reads everything back.
func (o *offsetModel) crashed() {
	synctest.Wait()
	o.log.mu.Lock()
	dead := o.log.dead
	o.log.mu.Unlock()
	if !dead {
		return
	}
	o.crashes++
	o.restart()
}

func (o *offsetModel) restart() {
	o.c.Close()
	o.trims += o.log.trims
	o.log = o.log.revive()
	o.open()
	o.readAll()
	if d := describe(o.c, 5, "m"); d.State != "Stable" {
		o.m = nil // it never was in the log, or left it
	}
}

func (o *offsetModel) readAll() {
	now := time.Now()
	for g := range 4 {
		for t := range 3 {
			for p := range 4 {
				group, topic := fmt.Sprint("g", g), fmt.Sprint("t", t)
				key := fmt.Sprint(group, " ", topic, " ", p)
				got := fetch(o.c, group, topic, int32(p))
				at, ok := o.may[key][got]
				if len(o.may[key]) == 0 {
					ok = got == -1
				}
				age := now.Sub(at)
				// Retention is looked at every 10 minutes from the start on.
				if !ok && got == -1 {
					for _, at := range o.may[key] {
						ok = ok || now.Sub(at) >= modelRetention
					}
				} else if got != -1 && age > modelRetention+11*time.Minute && now.Sub(o.started) > 11*time.Minute {
					o.t.Fatalf("%s: offset %d of %v ago was not expired", key, got, age)
				}
				if !ok {
					o.t.Fatalf("%s: read %d, may be %v", key, got, o.may[key])
				}
				o.may[key] = map[int64]time.Time{got: at}
				if got == -1 {
					delete(o.may, key)
				}
			}
		}
	}
	d := describe(o.c, 5, "m")
	got := d.State
	if len(d.Members) == 1 {
		got += " " + string(d.Members[0].MemberAssignment)
	}
	if got == "Dead" { // an empty group is forgotten by and by
		got = "Empty"
	}
	if !o.members[got] {
		o.t.Fatalf("group m is %q, may be %v", got, o.members)
	}
	o.members = map[string]bool{got: true}
}

func (o *offsetModel) commit() {
	group, topic, p := fmt.Sprint("g", o.rng.IntN(4)), fmt.Sprint("t", o.rng.IntN(3)), o.rng.IntN(4)
	key := fmt.Sprint(group, " ", topic, " ", p)
	o.next++
	now := time.Now()
	got := commit(o.c, group, topic, int32(p), o.next)
	if got == 0 {
		o.may[key] = map[int64]time.Time{o.next: now}
		return
	}
	if o.may[key] == nil {
		o.may[key] = map[int64]time.Time{-1: now}
	}
	o.may[key][o.next] = now
}

func (o *offsetModel) dropTopic() {
	topic := o.rng.IntN(3)
	o.c.DropTopic(fmt.Sprint("t", topic), record.TopicID{})
	synctest.Wait()
	o.log.mu.Lock()
	dead := o.log.dead
	o.log.mu.Unlock()
	for g := range 4 {
		for p := range 4 {
			key := fmt.Sprint("g", g, " t", topic, " ", p)
			if dead && o.may[key] != nil {
				o.may[key][-1] = time.Now()
			} else if !dead {
				delete(o.may, key)
			}
		}
	}
}

// membership lets the one member of group m come or go.
func (o *offsetModel) membership() {
	if o.m == nil {
		m := &consumer{c: o.c, version: 3, group: "m", meta: "x"}
		if m.join().ErrorCode != 0 {
			return
		}
		o.next++
		a := fmt.Sprint(o.next)
		o.m = m
		if m.sync(map[string]string{m.id: a}).ErrorCode == 0 {
			o.members = map[string]bool{"Stable " + a: true}
		} else {
			o.members["Stable "+a] = true
		}
		return
	}
	if o.m.leave().ErrorCode == 0 {
		o.m, o.members = nil, map[string]bool{"Empty": true}
	} else {
		o.members["Empty"] = true
	}
}

func TestOffsetsOverCrashes(t *testing.T) {
	crashes, trims := 0, 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			o := &offsetModel{t: t, rng: rand.New(rand.NewPCG(seed, 3)), log: newMemLog(), may: map[string]map[int64]time.Time{}, members: map[string]bool{"Empty": true}}
			o.cfg = Config{OffsetsPartitions: 1, SnapshotBytes: 1500, MaxBatchBytes: int64(100 + o.rng.IntN(1000)), OffsetsRetention: modelRetention, InitialRebalanceDelay: -1, RetentionCheck: 10 * time.Minute}
			o.log.keep = o.rng.IntN(6)
			o.open()
			for range 400 {
				switch n := o.rng.IntN(40); {
				case n < 34:
					o.commit()
				case n < 35:
					o.dropTopic()
				case n < 36:
					o.idle()
				case n < 39:
					o.membership()
				default:
					synctest.Wait()
					o.readAll()
				}
				o.crashed()
			}
			o.restart()
			o.c.Close()
			size := 0
			for _, b := range o.log.batches {
				size += len(b)
			}
			if size > 40_000 {
				t.Errorf("the log is %d bytes", size)
			}
			crashes, trims = crashes+o.crashes, trims+o.trims
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Log("crashes", crashes, "trims", trims)
	if crashes < 100 || trims < 100 {
		t.Errorf("only %d crashes and %d trims", crashes, trims)
	}
}

// idle lets time pass; the member of group m keeps beating.
func (o *offsetModel) idle() {
	d := time.Duration(o.rng.IntN(40)) * time.Minute
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Second) {
		if o.m != nil {
			o.m.beat()
		}
	}
}

func fetchAll(c *Coordinator, group string) map[string]int64 {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.Group, req.Topics = 5, group, nil
	out := map[string]int64{}
	for _, t := range c.OffsetFetch(req).Topics {
		for _, p := range t.Partitions {
			out[fmt.Sprint(t.Topic, p.Partition)] = p.Offset
		}
	}
	return out
}

// subscribe is a consumer's metadata: version, topics, no user data.
func subscribe(topics ...string) string {
	v := kmsg.NewConsumerMemberMetadata()
	v.Topics = topics
	return string(v.AppendTo(nil))
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		c := start(t, Config{OffsetsRetention: 2 * time.Hour, RetentionCheck: time.Minute, InitialRebalanceDelay: -1}, log)
		m := &consumer{c: c, version: 9, group: "g", meta: subscribe("read")}
		m.join()
		m.sync(nil)
		beat := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Second) {
				wantCode(t, "beat", m.beat(), nil)
			}
		}
		c.OffsetCommit(commitReq(9, "g", m.id, m.gen, "read", 0, 1))
		c.OffsetCommit(commitReq(9, "g", m.id, m.gen, "left", 0, 2))
		own := commitReq(4, "own", "", -1, "t", 0, 3)
		own.RetentionTimeMillis = (30 * time.Minute).Milliseconds()
		c.OffsetCommit(own)
		commit(c, "simple", "t", 0, 4)
		beat(29 * time.Minute)
		if got := fetch(c, "own", "t", 0); got != 3 {
			t.Errorf("own retention, early: %d", got)
		}
		beat(3 * time.Minute)
		if got := fetch(c, "own", "t", 0); got != -1 {
			t.Errorf("own retention, late: %d", got)
		}
		if got := describe(c, 5, "own").State; got != "Dead" {
			t.Errorf("a group without offsets is %s", got)
		}
		commit(c, "simple", "t", 1, 5) // keeps itself, not the other
		beat(91 * time.Minute)
		if got := fmt.Sprint(fetchAll(c, "simple")); got != "map[t1:5]" {
			t.Errorf("simple group: %s", got)
		}
		if got := fmt.Sprint(fetchAll(c, "g")); got != "map[read0:1]" {
			t.Errorf("stable group keeps what it reads: %s", got)
		}
		m.leave()
		time.Sleep(116 * time.Minute)
		if got := fmt.Sprint(fetchAll(c, "g")); got != "map[read0:1]" {
			t.Errorf("empty group, early: %s", got)
		}
		// The time since it became empty goes on over a restart.
		c.Close()
		log = log.revive()
		c = start(t, Config{OffsetsRetention: 2 * time.Hour, RetentionCheck: time.Minute}, log)
		time.Sleep(3 * time.Minute)
		if got := fmt.Sprint(fetchAll(c, "g")); got != "map[read0:1]" {
			t.Errorf("empty group, early, after a restart: %s", got)
		}
		time.Sleep(2*time.Minute + time.Second)
		if got := fmt.Sprint(fetchAll(c, "g")); got != "map[]" {
			t.Errorf("empty group, late: %s", got)
		}
		if n := c.groups.Load(); n != 0 {
			t.Errorf("%d groups left", n)
		}
		s := c.shards[0].Load()
		synctest.Wait()
		if len(s.durable) != 0 || s.live != 0 {
			t.Errorf("left: %v, %d bytes", s.durable, s.live)
		}
		c.Close()
		c = start(t, Config{}, log.revive())
		if r := c.ListGroups(kmsg.NewPtrListGroupsRequest()); len(r.Groups) != 0 {
			t.Errorf("after a restart: %+v", r.Groups)
		}
	})
}

// TestRefusedCommit: as in Kafka a commit makes its group even if none of its
// offsets is taken, until retention is looked at; not when memory is full.
func TestRefusedCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, Config{MaxMetadataBytes: -1, RetentionCheck: time.Minute}, newMemLog())
		wantCode(t, "commit", commit(c, "g", "t", 0, 1), kerr.OffsetMetadataTooLarge)
		if got := describe(c, 6, "g").State; got != "Empty" {
			t.Errorf("the group is %s", got)
		}
		wantCode(t, "of a generation", c.OffsetCommit(commitReq(9, "h", "m", 1, "t", 0, 1)).Topics[0].Partitions[0].ErrorCode, kerr.GroupIDNotFound)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if n, bytes := c.groups.Load(), c.bytes.Load(); n != 0 || bytes != 0 {
			t.Errorf("left: %d groups, %d bytes", n, bytes)
		}
		c.SetConfig(Config{MaxBytes: 550})
		wantCode(t, "the last commit", commit(c, "g", "t", 0, 1), nil)
		wantCode(t, "memory is full", commit(c, "h", "t", 0, 1), kerr.InvalidCommitOffsetSize)
		if n := c.groups.Load(); n != 1 {
			t.Errorf("%d groups when memory is full", n)
		}
	})
}

// TestSnapshotFails: a snapshot of which one batch could not be appended lets
// nothing go, and a later one does.
func TestSnapshotFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		c := start(t, Config{SnapshotBytes: 5000}, log)
		want := map[string]int64{}
		write := func() {
			for p := range int32(5) {
				want[fmt.Sprint("t", p)]++
				wantCode(t, "commit", commit(c, "g", "t", p, want[fmt.Sprint("t", p)]), nil)
				synctest.Wait()
				if log.failIn == 1 {
					log.failIn = 2 // the append after the next commit: a snapshot's, if there is one
				}
			}
		}
		log.failIn = 2
		for n := 0; log.failIn > 0; n++ {
			if write(); n > 1000 {
				t.Fatal("no snapshot was tried")
			}
		}
		if log.trims != 0 {
			t.Error("trimmed without a snapshot")
		}
		check := func() {
			t.Helper()
			c.Close()
			c = start(t, Config{SnapshotBytes: 5000}, log.revive())
			if got := fetchAll(c, "g"); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("read %v, want %v", got, want)
			}
		}
		for range 40 {
			write()
		}
		if log.trims == 0 {
			t.Error("never trimmed")
		}
		check()
	})
}

func TestDropTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		c := start(t, Config{MaxBatchBytes: 150}, log)
		for p := range int32(3) {
			commit(c, "a", "gone", p, 1)
			commit(c, "a", "kept", p, 1)
			commit(c, "b", "gone", p, 1)
		}
		c.DropTopic("gone", record.TopicID{})
		commit(c, "a", "gone", 9, 1) // of the topic's next life
		if n := len(log.batches); n != 9+2+1 {
			t.Errorf("6 tombstones of about 50 bytes made %d batches", n-10)
		}
		for range 2 {
			if a, b := fmt.Sprint(fetchAll(c, "a")), fmt.Sprint(fetchAll(c, "b")); a != "map[gone9:1 kept0:1 kept1:1 kept2:1]" || b != "map[]" {
				t.Errorf("after the topic was dropped: %s %s", a, b)
			}
			c.Close()
			c = start(t, Config{}, log.revive())
		}
	})
}

// TestRecordBytes pins the formats to bytes worked out from Kafka's schemas.
func TestRecordBytes(t *testing.T) {
	now := time.UnixMilli(0x0102030405)
	for _, tt := range []struct {
		e          entry
		key, value string
	}{
		{entry{group: "gr", isOffset: true, topic: "t", partition: 3, offset: &offsetValue{offset: 258, epoch: 7, metadata: "m", commitTime: 9, expireTime: -1}},
			"0001" + "0002" + "6772" + "0001" + "74" + "00000003",
			"0004" + "0000000000000102" + "00000007" + "02" + "6d" + "0000000000000009" + "00"},
		{entry{group: "gr", isOffset: true, topic: "t", partition: 3, offset: &offsetValue{offset: 258, epoch: 7, commitTime: 9, expireTime: -1, topicID: record.TopicID{1, 15: 2}}},
			"0001" + "0002" + "6772" + "0001" + "74" + "00000003",
			"0004" + "0000000000000102" + "00000007" + "01" + "0000000000000009" + "01" + "00" + "10" + "01" + strings.Repeat("00", 14) + "02"},
		{entry{group: "gr", isOffset: true, topic: "t", partition: 3, offset: &offsetValue{offset: 258, epoch: 7, metadata: "m", commitTime: 9, expireTime: 10}},
			"0001" + "0002" + "6772" + "0001" + "74" + "00000003",
			"0001" + "0000000000000102" + "0001" + "6d" + "0000000000000009" + "000000000000000a"},
		{entry{group: "gr", meta: stableMeta(now).AppendTo(nil)},
			"0002" + "0002" + "6772",
			"0003" + "0001" + "63" + "00000005" + "0001" + "70" + "0001" + "69" + "0000000102030405" + "00000001" +
				"0001" + "69" + "0001" + "73" + "0001" + "63" + "0001" + "68" + "000003e8" + "000007d0" + "00000001" + "aa" + "00000001" + "bb"},
	} {
		if got := hex.EncodeToString(tt.e.key()); got != tt.key {
			t.Errorf("key:\n got %s\nwant %s", got, tt.key)
		}
		if got := hex.EncodeToString(tt.e.value()); got != tt.value {
			t.Errorf("value:\n got %s\nwant %s", got, tt.value)
		}
		back, err := decodeEntry(tt.e.key(), tt.e.value())
		if err != nil || fmt.Sprint(back.value()) != fmt.Sprint(tt.e.value()) || back.group != "gr" {
			t.Errorf("read again: %+v %v", back, err)
		}
	}
}

func stableMeta(now time.Time) *kmsg.GroupMetadataValue {
	g := newClassic("gr", &rules{}, now)
	m := &member{id: "i", instance: kmsg.StringPtr("s"), clientID: "c", host: "h", rebalanceTimeout: time.Second, sessionTimeout: 2 * time.Second,
		protocols: []protocol{{"p", []byte{0xaa}}}, assignment: []byte{0xbb}}
	g.add(m)
	g.protocolType, g.protocol, g.generation = "c", "p", 5
	return g.meta(nil)
}

// FuzzDecode: nothing in the log may hang or panic the load, and what is read
// is written as the same.
func FuzzDecode(f *testing.F) {
	for _, e := range []entry{
		{group: "g", isOffset: true, topic: "t", partition: 3, offset: &offsetValue{offset: 1, epoch: -1, metadata: "m", commitTime: 5, expireTime: -1}},
		{group: "g", isOffset: true, topic: "t", offset: &offsetValue{expireTime: 4}},
		{group: "g", meta: stableMeta(time.UnixMilli(5)).AppendTo(nil)},
	} {
		f.Add(e.key(), e.value())
	}
	f.Add([]byte{0, 3}, []byte{})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		e, err := decodeEntry(key, value)
		if err != nil {
			return
		}
		again, err := decodeEntry(e.key(), e.value())
		if err != nil || string(again.value()) != string(e.value()) || string(again.key()) != string(e.key()) {
			t.Fatalf("%+v, again %+v: %v", e, again, err)
		}
		if e.meta != nil {
			v, err := decodeGroup(e.meta)
			if err != nil {
				t.Fatal(err)
			}
			var fx effects
			g := loadClassic(e.group, v, &rules{maxSize: 3, maxBytes: 1000, newID: func() string { return "x" }}, time.UnixMilli(9), &fx)
			for i := 0; !g.next.IsZero(); i++ {
				if i > 1000 {
					t.Fatal("its deadlines never end")
				}
				g.tick(g.next, &fx)
			}
			if !g.idle() || g.bytes != 512+len(g.id) {
				t.Fatalf("left: %+v", g)
			}
		}
		subscription(value, map[string]bool{})
	})
}
