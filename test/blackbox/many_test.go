package blackbox

import (
	"context"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/test/firntest"
)

// many is a cluster of many small topics, made and deleted while records are
// produced to all of them.
type many struct {
	t     *testing.T
	b     *firntest.Broker
	parts int32

	mu    sync.Mutex
	acked map[string]map[string]bool // topic → values; nil: deletion was asked for since the last check
}

// create makes topics and says whether the broker confirmed it. What is
// produced to one made again counts from the next check on: until then an
// acknowledgement may be of the old one.
func (m *many) create(ctx context.Context, names ...string) error {
	m.mu.Lock()
	for _, n := range names {
		if _, again := m.acked[n]; !again {
			m.acked[n] = map[string]bool{}
		}
	}
	m.mu.Unlock()
	_, err := kadm.NewClient(m.b.Client(kgo.RequestRetries(0))).CreateTopics(ctx, m.parts, 1, nil, names...)
	return err
}

func (m *many) drop(ctx context.Context, names ...string) error {
	m.mu.Lock()
	for _, n := range names {
		m.acked[n] = nil
	}
	m.mu.Unlock()
	_, err := kadm.NewClient(m.b.Client(kgo.RequestRetries(0))).DeleteTopics(ctx, names...)
	return err
}

// produce sends one record to each partition of each topic. What is refused,
// because its topic is gone or the broker was killed, is not counted.
func (m *many) produce(ctx context.Context, round string, names ...string) {
	cl := m.b.Client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(0), kgo.RecordRetries(2), kgo.RecordDeliveryTimeout(5*time.Second), kgo.MaxBufferedRecords(1<<16))
	for p := range m.parts {
		for _, n := range names {
			r := &kgo.Record{Topic: n, Partition: p, Value: fmt.Appendf(nil, "%s/%d/%s", n, p, round)}
			cl.Produce(ctx, r, func(r *kgo.Record, err error) {
				m.mu.Lock()
				defer m.mu.Unlock()
				if err == nil && m.acked[r.Topic] != nil {
					m.acked[r.Topic][string(r.Value)] = true
				}
			})
		}
	}
	cl.Flush(ctx)
	cl.Close()
}

// check compares topics, records and folders with what was acknowledged.
func (m *many) check() {
	m.t.Helper()
	ctx, cancel := firntest.Context(m.t)
	defer cancel()
	adm := kadm.NewClient(m.b.Client())
	topics, err := adm.ListTopics(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	want := map[string]bool{} // folders
	offsets := map[string]map[int32]kgo.Offset{}
	for name, d := range topics {
		offsets[name] = map[int32]kgo.Offset{}
		for p := range d.Partitions {
			want[fmt.Sprintf("%s/%d-%s", name, p, hex.EncodeToString(d.ID[:]))] = true
			offsets[name][p] = kgo.NewOffset().AtStart()
		}
		if len(d.Partitions) != int(m.parts) {
			m.t.Errorf("topic %s has %d partitions", name, len(d.Partitions))
		}
	}
	for name, values := range m.acked {
		if len(values) > 0 && !topics.Has(name) {
			m.t.Errorf("topic %s is gone, with %d acknowledged records; nobody deleted it", name, len(values))
		}
	}
	firntest.Eventually(m.t, "the folders are those of the topics", func() error {
		have := folders(m.t, filepath.Join(m.b.Data, "logs"))
		for _, f := range have {
			if !want[f] {
				return fmt.Errorf("%s belongs to no topic", f)
			}
		}
		if len(have) != len(want) {
			return fmt.Errorf("%d folders, %d partitions", len(have), len(want))
		}
		return nil
	})
	for _, f := range folders(m.t, filepath.Join(m.b.Data, "stray")) {
		if want[f] {
			m.t.Errorf("%s was set aside, its topic exists", f)
		}
	}
	m.read(ctx, offsets)
	for name, values := range m.acked {
		if values == nil && topics.Has(name) {
			m.acked[name] = map[string]bool{}
		}
	}
}

func (m *many) read(ctx context.Context, offsets map[string]map[int32]kgo.Offset) {
	m.t.Helper()
	missing := map[string]bool{}
	total := 0
	for _, values := range m.acked {
		for v := range values {
			missing[v] = true
			total++
		}
	}
	cl := m.b.Client(kgo.ConsumePartitions(offsets))
	defer cl.Close()
	for len(missing) > 0 {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			m.t.Fatalf("%d of %d acknowledged records are not there", len(missing), total)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if !strings.HasPrefix(string(r.Value), fmt.Sprintf("%s/%d/", r.Topic, r.Partition)) {
				m.t.Errorf("%s-%d has the record %q", r.Topic, r.Partition, r.Value)
			}
			delete(missing, string(r.Value))
		})
	}
	m.t.Logf("%d acknowledged records read back from %d topics", total, len(offsets))
}

// TestManyTopicsComeAndGo makes 2,000 partitions, deletes and makes topics
// while records are produced, is killed in the middle of that, and is stopped
// politely: acknowledged records of topics that nobody deleted are there, and
// each folder among the logs is a partition's.
func TestManyTopicsComeAndGo(t *testing.T) {
	m := &many{t: t, b: firntest.Start(t), parts: 100, acked: map[string]map[string]bool{}}
	ctx, cancel := firntest.Context(t)
	defer cancel()
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("topic-%02d", i))
	}
	if err := m.create(ctx, names...); err != nil {
		t.Fatal(err)
	}
	m.produce(ctx, "first", names...)
	for round := range 2 {
		fresh := fmt.Sprintf("fresh-%d", round)
		doomed := names[3*round : 3*round+3]
		var wg sync.WaitGroup
		began := make(chan struct{})
		ctx, giveUp := context.WithCancel(ctx)
		wg.Go(func() { m.produce(ctx, fresh, names...) })
		wg.Go(func() {
			if err := m.drop(ctx, doomed[0]); err != nil {
				t.Errorf("delete %s: %v", doomed[0], err)
			}
			// Again under the same name, while the rest goes on. The kill
			// decides how far these get.
			close(began)
			_ = m.create(ctx, doomed[0])
			_ = m.drop(ctx, doomed[1:]...)
			_ = m.create(ctx, fresh)
		})
		<-began
		<-time.After(time.Duration(20+150*round) * time.Millisecond)
		m.b.Kill()
		giveUp()
		wg.Wait()
		m.b.Start()
		m.check()
	}
	m.b.Stop()
	m.b.Start()
	m.check()
	m.b.Stop()
}
