package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering"
)

// harness plays the broker's root: the real metastore, partitions and group
// coordinator in this process, no sockets. One serves all tests of the
// package; they keep apart by their topics' names.
type harness struct {
	api    *API
	deps   Deps
	meta   *metastore.Store
	groups *group.Coordinator
	dir    string
	cold   coldFunc // of partitions that are opened from now on

	mu      sync.Mutex
	open    map[string][]*partition.Partition
	ids     map[string]record.TopicID
	applied int64
	moved   chan struct{}
	loaded  bool
}

type coldFunc interface{ partition.Cold }

const testBroker = 7

var shared *harness

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "firn-api")
	if err != nil {
		panic(err)
	}
	shared, err = startHarness(dir)
	if err != nil {
		panic(err)
	}
	code := m.Run()
	if n := shared.api.waiting.Load() + int64(len(shared.api.slow)+len(shared.api.cold)); n != 0 {
		fmt.Fprintln(os.Stderr, n, "requests are still under way")
		code = 1
	}
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	for _, name := range openFiles(dir) {
		fmt.Fprintln(os.Stderr, "a span was not released:", name)
		code = 1
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func startHarness(dir string) (*harness, error) {
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	meta, err := metastore.Open(ctx, metastore.Config{Dir: filepath.Join(dir, "etcd"), BrokerID: testBroker, Host: "firn.test", Port: 9092, Rack: "r1"}, metastore.Deps{Log: log})
	if err != nil {
		return nil, err
	}
	if err := meta.Register(ctx); err != nil {
		return nil, err
	}
	controller, _ := meta.ControllerEpoch()
	if rev, err := meta.Unfence(ctx, controller, testBroker, metastore.Unfenced{Epoch: meta.BrokerEpoch()}); err != nil {
		return nil, err
	} else if err := meta.WaitFor(ctx, rev); err != nil {
		return nil, err
	}
	h := &harness{meta: meta, dir: dir, open: map[string][]*partition.Partition{}, ids: map[string]record.TopicID{}, moved: make(chan struct{})}
	h.groups = group.New(group.Config{OffsetsPartitions: 2, InitialRebalanceDelay: -1}, group.Deps{Log: log})
	static := map[string]string{
		"num.partitions": "2", "offsets.topic.num.partitions": "2", "node.id": "7", "broker.id": "7",
		"advertised.listeners": "PLAINTEXT://firn.test:9092", "broker.rack": "r1",
	}
	values := func() *brokerconfig.Values {
		all := meta.Image().Configs
		v, _, err := brokerconfig.ResolveStored(static, all[metastore.ConfigResource{Type: metastore.BrokerConfigs}], all[metastore.ConfigResource{Type: metastore.BrokerConfigs, Name: "7"}])
		if err != nil {
			panic(err)
		}
		return v
	}
	h.deps = Deps{Log: log, Meta: meta, Partitions: h, Groups: h.groups, Tier: &tiering.Manager{}, EnsureOffsetsTopic: h.ensureOffsets, Config: values, LogLevel: new(slog.LevelVar)}
	h.api = New(Config{BrokerID: testBroker, LogDir: dir}, h.deps)
	meta.OnChange(h.apply)
	deadline := time.Now().Add(10 * time.Second)
	for len(meta.Image().Brokers) == 0 {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the broker does not show in the image")
		}
		time.Sleep(time.Millisecond)
	}
	return h, nil
}

// configured gives broker configs with some that were given at the start, in
// pairs of name and value.
func configured(t testing.TB, pairs ...string) func() *brokerconfig.Values {
	t.Helper()
	static := map[string]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		static[pairs[i]] = pairs[i+1]
	}
	v, err := brokerconfig.Resolve(static, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return func() *brokerconfig.Values { return v }
}

func (h *harness) close() error {
	h.groups.Close()
	h.mu.Lock()
	for _, ps := range h.open {
		for _, p := range ps {
			p.Close()
		}
	}
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return h.meta.Close(ctx)
}

func (h *harness) apply(img *metastore.Image) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, ps := range h.open {
		if t := img.Topics[name]; t == nil || t.ID != h.ids[name] {
			for _, p := range ps {
				p.Delete()
			}
			delete(h.open, name)
		}
	}
	for name, t := range img.Topics {
		h.ids[name] = t.ID
		cfg, err := topicconfig.Parse(t.Configs, h.deps.Config().TopicDefaults())
		if err != nil {
			panic(err)
		}
		for i, p := range h.open[name] {
			p.SetConfig(cfg.Partition)
			p.Lead(leads(&t.Partitions[i]))
		}
		for i := len(h.open[name]); i < len(t.Partitions); i++ {
			deps := partition.Deps{Log: h.deps.Log, Broker: t.Partitions[i].Leader, Standby: true}
			if h.cold != nil {
				deps.Cold = h.cold
			}
			p, err := partition.Open(filepath.Join(h.dir, "logs", t.ID.Hex(), fmt.Sprint(i)), record.TopicPartition{Topic: name, Partition: record.PartitionID(i)}, t.ID, cfg.Partition, deps)
			if err != nil {
				panic(err)
			}
			p.Lead(leads(&t.Partitions[i]))
			h.open[name] = append(h.open[name], p)
		}
	}
	if ps := h.open[offsetsTopic]; ps != nil && !h.loaded {
		h.loaded = true
		for i := range ps {
			if err := h.groups.Load(context.Background(), int32(i), &memLog{}); err != nil {
				panic(err)
			}
		}
	}
	h.applied = img.Revision
	close(h.moved)
	h.moved = make(chan struct{})
}

func (h *harness) Get(topic string, p record.PartitionID) *partition.Partition {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ps := h.open[topic]; p >= 0 && int(p) < len(ps) {
		return ps[p]
	}
	return nil
}

func (h *harness) OpenError(string, record.PartitionID) error { return nil }

func (h *harness) AwaitApplied(ctx context.Context, revision int64) error {
	for {
		h.mu.Lock()
		done, moved := h.applied >= revision, h.moved
		h.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *harness) ensureOffsets(ctx context.Context) error {
	if h.meta.Image().Topics[offsetsTopic] != nil {
		return nil
	}
	spec := metastore.TopicSpec{Name: offsetsTopic, Internal: true, Assignment: [][]record.BrokerID{{testBroker}, {testBroker}}}
	_, rev, err := h.meta.CreateTopics(ctx, []metastore.TopicSpec{spec})
	if err != nil {
		return err
	}
	return h.AwaitApplied(ctx, rev)
}

// memLog is a partition of the offsets topic in memory.
type memLog struct {
	mu  sync.Mutex
	end record.Offset
}

func (l *memLog) Append(b record.Batch) (record.Offset, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.end
	l.end += record.Offset(b.NumRecords())
	return at, nil
}
func (l *memLog) Replay(context.Context, func(record.Batch) error) error { return nil }
func (l *memLog) TrimTo(record.Offset) error                             { return nil }
func (l *memLog) End() record.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// answer is a reply as a client sees it.
type answer struct {
	resp   kmsg.Response // nil: nothing was sent
	closed bool
	reason string
}

// serve sends req through the decoder to a, and decodes what comes back.
func serve(t testing.TB, a *API, clientID string, req kmsg.Request) answer {
	t.Helper()
	select {
	case got := <-start(t, context.Background(), a, clientID, req):
		return got
	case <-time.After(60 * time.Second):
		t.Fatalf("no reply to %T", req)
		return answer{}
	}
}

// start sends req; the answer comes later.
func start(t testing.TB, ctx context.Context, a *API, clientID string, req kmsg.Request) <-chan answer {
	t.Helper()
	decoded, err := wire.DecodeRequest(req.Key(), req.GetVersion(), req.AppendTo(nil))
	if err != nil {
		t.Fatalf("%T version %d does not decode: %v", req, req.GetVersion(), err)
	}
	ch := make(chan answer, 1)
	var replies atomic.Int32
	wr := &wire.Request{Client: &wire.Client{Remote: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4}}, ClientID: clientID, Body: decoded}
	a.Serve(ctx, wr, func(r wire.Reply) {
		if n := replies.Add(1); n != 1 {
			t.Errorf("%T was answered %d times", req, n)
			return
		}
		ch <- decodeReply(t, req, r)
	})
	return ch
}

func decodeReply(t testing.TB, req kmsg.Request, r wire.Reply) answer {
	t.Helper()
	got := answer{closed: r.Close, reason: r.Reason}
	body := r.Body
	if r.Fetch != nil {
		for i := range r.Fetch.Body.Topics {
			for j := range r.Fetch.Body.Topics[i].Partitions {
				b := []byte{}
				for _, s := range r.Fetch.Spans[i][j] {
					chunk := make([]byte, s.Size())
					if _, err := s.ReadAt(chunk, 0); err != nil {
						t.Errorf("span: %v", err)
					}
					b = append(b, chunk...)
				}
				r.Fetch.Body.Topics[i].Partitions[j].RecordBatches = b
			}
		}
		releaseAll(r.Fetch.Spans)
		body = r.Fetch.Body
	}
	if body == nil {
		return got
	}
	got.resp = req.ResponseKind()
	got.resp.SetVersion(body.GetVersion())
	if err := got.resp.ReadFrom(body.AppendTo(nil)); err != nil {
		t.Errorf("reply to %T version %d does not decode: %v", req, req.GetVersion(), err)
	}
	return got
}

// ask sends a request and gives the typed reply.
func ask[R kmsg.Response](t testing.TB, req kmsg.Request) R {
	t.Helper()
	return askOf[R](t, shared.api, req)
}

func askOf[R kmsg.Response](t testing.TB, a *API, req kmsg.Request) R {
	t.Helper()
	got := serve(t, a, "test", req)
	r, ok := got.resp.(R)
	if !ok {
		t.Fatalf("%T was answered by %T (closed %v: %s)", req, got.resp, got.closed, got.reason)
	}
	return r
}

var topicCount atomic.Int64

// makeTopic creates a topic of its own for a test.
func makeTopic(t testing.TB, partitions int32, configs ...string) *metastore.Topic {
	t.Helper()
	name := fmt.Sprintf("t%d", topicCount.Add(1))
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, 30_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, 1
	for i := 0; i < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], &configs[i+1]
		rt.Configs = append(rt.Configs, c)
	}
	req.Topics = append(req.Topics, rt)
	resp := ask[*kmsg.CreateTopicsResponse](t, req)
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		t.Fatalf("create %s: %v: %s", name, err, *resp.Topics[0].ErrorMessage)
	}
	return shared.meta.Image().Topics[name]
}

func deleteTopic(t testing.TB, name string) {
	t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Version, req.TimeoutMillis, req.TopicNames = 5, 30_000, []string{name}
	if resp := ask[*kmsg.DeleteTopicsResponse](t, req); resp.Topics[0].ErrorCode != 0 {
		t.Fatalf("delete %s: %v", name, kerr.ErrorForCode(resp.Topics[0].ErrorCode))
	}
}

// batch makes a record batch of n records.
func batch(t testing.TB, n int, edit ...func(*record.BatchSpec, []record.Record)) []byte {
	t.Helper()
	spec := record.BatchSpec{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
	recs := make([]record.Record, n)
	now := time.Now().UnixMilli()
	for i := range recs {
		recs[i] = record.Record{Offset: record.Offset(i), Timestamp: now + int64(i), Value: fmt.Appendf(nil, "value %d", i)}
	}
	for _, e := range edit {
		e(&spec, recs)
	}
	b, err := record.NewBatch(spec, recs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func produceRequest(topic *metastore.Topic, version int16, acks int16, parts ...kmsg.ProduceRequestTopicPartition) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, acks, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID, rt.Partitions = topic.Name, topic.ID, parts
	req.Topics = append(req.Topics, rt)
	return req
}

func producePart(p int32, b []byte) kmsg.ProduceRequestTopicPartition {
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = p, b
	return rp
}

// write appends n records to a partition and gives the base offset.
func write(t testing.TB, topic *metastore.Topic, p int32, n int, edit ...func(*record.BatchSpec, []record.Record)) int64 {
	t.Helper()
	resp := ask[*kmsg.ProduceResponse](t, produceRequest(topic, 13, -1, producePart(p, batch(t, n, edit...))))
	got := resp.Topics[0].Partitions[0]
	if got.ErrorCode != 0 {
		t.Fatalf("produce: %v", kerr.ErrorForCode(got.ErrorCode))
	}
	return got.BaseOffset
}

func wantCode(t testing.TB, what string, got int16, want *kerr.Error) {
	t.Helper()
	var code int16
	if want != nil {
		code = want.Code
	}
	if got != code {
		t.Errorf("%s: got %v, want %v", what, kerr.ErrorForCode(got), want)
	}
}

// openFiles lists the files below dir that this process has open: after the
// end, each is a span that somebody forgot.
func openFiles(dir string) (names []string) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil // not on Linux: nothing to look at
	}
	for _, fd := range fds {
		if name, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(name, dir) {
			names = append(names, name)
		}
	}
	return names
}

// leads is the record of a partition whose leader is its only replica.
func leads(p *metastore.Partition) replica.Record {
	return replica.Record{Leader: p.Leader, Epoch: p.Epoch, Revision: p.Revision, Replicas: p.Replicas, ISR: p.ISR}
}
