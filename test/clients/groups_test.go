package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// member is one franz-go member of a group, which polls until it is stopped
// and commits what it polled before it polls again.
type member struct {
	cl      *kgo.Client
	stop    context.CancelFunc
	stopped chan struct{}
	polled  atomic.Int64

	mu       sync.Mutex // guards what follows
	assigned map[int32]bool
	changes  int // calls of the callbacks that changed something
	err      error
}

func (m *member) has() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.assigned)
}

func (m *member) callbacks() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changes
}

// join starts a member; each record's value is sent to values.
func join(t testing.TB, group, topic string, values chan<- string, opts ...kgo.Opt) *member {
	t.Helper()
	m := &member{assigned: map[int32]bool{}, stopped: make(chan struct{})}
	change := func(add bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, ps map[string][]int32) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if len(ps) > 0 {
				m.changes++
			}
			for _, p := range ps[topic] {
				if m.assigned[p] == add {
					m.err = errors.Join(m.err, fmt.Errorf("partition %d was given or taken twice", p))
				}
				if add {
					m.assigned[p] = true
				} else {
					delete(m.assigned, p)
				}
			}
		}
	}
	m.cl = franz(t, append([]kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.HeartbeatInterval(100 * time.Millisecond), kgo.SessionTimeout(6 * time.Second), kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false))}, opts...)...)
	ctx, cancel := context.WithCancel(t.Context())
	m.stop = cancel
	go func() {
		defer close(m.stopped)
		for ctx.Err() == nil {
			fs := m.cl.PollRecords(ctx, 200)
			if fs.IsClientClosed() {
				return
			}
			fs.EachError(func(_ string, p int32, err error) {
				if ctx.Err() == nil {
					m.mu.Lock()
					m.err = errors.Join(m.err, fmt.Errorf("partition %d: %w", p, err))
					m.mu.Unlock()
				}
			})
			rs := fs.Records()
			if len(rs) > 0 {
				if err := m.cl.CommitRecords(context.WithoutCancel(ctx), rs...); err != nil {
					m.mu.Lock()
					m.err = errors.Join(m.err, err)
					m.mu.Unlock()
				}
				for _, r := range rs {
					values <- string(r.Value)
				}
				m.polled.Add(int64(len(rs)))
			}
			m.cl.AllowRebalance()
		}
	}()
	t.Cleanup(func() { m.leave(t) })
	return m
}

// leave stops polling, leaves the group (static members only go away) and
// fails the test if anything went wrong meanwhile.
func (m *member) leave(t testing.TB) {
	t.Helper()
	m.stop()
	<-m.stopped
	m.cl.CloseAllowingRebalance()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		t.Error(m.err)
	}
	m.err = nil
}

// awaitShares waits until the members have all of n partitions, and each its
// fair share.
func awaitShares(t testing.TB, n int, ms ...*member) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d partitions shared by %d members", n, len(ms)), func() error {
		seen := map[int32]int{}
		for i, m := range ms {
			m.mu.Lock()
			have := len(m.assigned)
			for p := range m.assigned {
				seen[p]++
			}
			m.mu.Unlock()
			if have < n/len(ms) || have > (n+len(ms)-1)/len(ms) {
				return fmt.Errorf("member %d has %d partitions", i, have)
			}
		}
		for p := range int32(n) {
			if seen[p] != 1 {
				return fmt.Errorf("partition %d has %d owners", p, seen[p])
			}
		}
		return nil
	})
}

// write produces the values from to to-1, spread over the partitions.
func write(t testing.TB, topic string, from, to int) {
	t.Helper()
	cl := franz(t, kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	defer cl.Close()
	for i := from; i < to; i++ {
		cl.Produce(t.Context(), kgo.StringRecord(fmt.Sprint(i)), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(limit(t)); err != nil {
		t.Fatal(err)
	}
}

// collect takes values until n different ones came.
func collect(t testing.TB, values <-chan string, n int, into tally) {
	t.Helper()
	ctx := limit(t)
	for len(into) < n {
		select {
		case v := <-values:
			into[v]++
		case <-ctx.Done():
			t.Fatalf("%d of %d records came", len(into), n)
		}
	}
}

// rest takes what is left.
func rest(values <-chan string, into tally) {
	for {
		select {
		case v := <-values:
			into[v]++
		default:
			return
		}
	}
}

// wantCommitted checks that the group has committed all that there is.
func wantCommitted(t testing.TB, group, topic string, total int) {
	t.Helper()
	adm := admin(t)
	committed := must[kadm.OffsetResponses](t)(adm.FetchOffsets(limit(t), group))
	ends := must[kadm.ListedOffsets](t)(adm.ListEndOffsets(limit(t), topic))
	sum := int64(0)
	ends.Each(func(o kadm.ListedOffset) {
		sum += o.Offset
		c, ok := committed.Lookup(topic, o.Partition)
		if o.Offset > 0 && (!ok || c.Err != nil || c.At != o.Offset) {
			t.Errorf("partition %d: committed %d (%v, %v), end %d", o.Partition, c.At, ok, c.Err, o.Offset)
		}
	})
	if sum != int64(total) {
		t.Errorf("the topic has %d records, want %d", sum, total)
	}
}

// TestGroupOfFranzGo lets members join and leave while records are produced,
// under an eager and under the cooperative assignor.
func TestGroupOfFranzGo(t *testing.T) {
	for name, balancer := range map[string]kgo.GroupBalancer{"range": kgo.RangeBalancer(), "sticky": kgo.StickyBalancer(), "cooperative-sticky": kgo.CooperativeStickyBalancer()} {
		t.Run(name, func(t *testing.T) {
			topic := newTopic(t, 6)
			values, seen := make(chan string, 10_000), tally{}
			opt := kgo.Balancers(balancer)
			write(t, topic, 0, 500)
			a := join(t, topic, topic, values, opt)
			awaitShares(t, 6, a)
			b := join(t, topic, topic, values, opt)
			write(t, topic, 500, 1000)
			awaitShares(t, 6, a, b)
			c := join(t, topic, topic, values, opt)
			write(t, topic, 1000, 1500)
			awaitShares(t, 6, a, b, c)
			a.leave(t)
			write(t, topic, 1500, 2000)
			awaitShares(t, 6, b, c)
			collect(t, values, 2000, seen)
			b.leave(t)
			c.leave(t)
			// A new member goes on where they stopped.
			write(t, topic, 2000, 2100)
			d := join(t, topic, topic, values, opt)
			collect(t, values, 2100, seen)
			d.leave(t)
			rest(values, seen)
			seen.wantEachOnce(t, 2100)
			wantCommitted(t, topic, topic, 2100)
		})
	}
}

// TestLargeGroup is 10 members on 30 partitions, all joining at once while a
// producer writes; then half of them leave.
func TestLargeGroup(t *testing.T) {
	topic := newTopic(t, 30)
	values, seen := make(chan string, 10_000), tally{}
	opt := kgo.Balancers(kgo.CooperativeStickyBalancer())
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range 10 {
			write(t, topic, i*300, (i+1)*300)
		}
	}()
	var ms []*member
	for range 10 {
		ms = append(ms, join(t, topic, topic, values, opt))
	}
	awaitShares(t, 30, ms...)
	for _, m := range ms[:5] {
		m.leave(t)
	}
	awaitShares(t, 30, ms[5:]...)
	<-written
	collect(t, values, 3000, seen)
	for _, m := range ms[5:] {
		m.leave(t)
	}
	rest(values, seen)
	seen.wantEachOnce(t, 3000)
	wantCommitted(t, topic, topic, 3000)
	// All left: the group is empty, and can be described as that.
	g := must[kadm.DescribedGroups](t)(admin(t).DescribeGroups(limit(t), topic))[topic]
	if g.Err != nil || g.State != "Empty" || len(g.Members) != 0 {
		t.Errorf("the group is %+v", g)
	}
}

// TestStaticMembers: a member with an instance id restarts, and nobody
// notices. franz-go's leader that restarts asks for a rebalance by itself if
// it would assign otherwise than before, as it does with cooperative-sticky;
// there only the other member restarts.
func TestStaticMembers(t *testing.T) {
	for name, balancer := range map[string]kgo.GroupBalancer{"range": kgo.RangeBalancer(), "cooperative-sticky": kgo.CooperativeStickyBalancer()} {
		t.Run(name, func(t *testing.T) {
			topic := newTopic(t, 6)
			values, seen := make(chan string, 10_000), tally{}
			start := func(instance string) *member {
				return join(t, topic, topic, values, kgo.Balancers(balancer), kgo.InstanceID(instance))
			}
			leader := start("a")
			awaitShares(t, 6, leader)
			other := start("b")
			awaitShares(t, 6, leader, other)
			_, generation := leader.cl.GroupMetadata()
			n := 0
			restart := func(m **member, instance string, stays *member) {
				t.Helper()
				before := stays.callbacks()
				(*m).leave(t)
				*m = start(instance)
				awaitShares(t, 6, leader, other)
				write(t, topic, n, n+300)
				n += 300
				collect(t, values, n, seen)
				if c := stays.callbacks(); c != before {
					t.Errorf("the other saw %d changes of its partitions while %s restarted", c-before, instance)
				}
				for _, m := range []*member{leader, other} {
					if _, g := m.cl.GroupMetadata(); g != generation {
						t.Errorf("generation %d after %s restarted, want %d", g, instance, generation)
					}
				}
			}
			for range 3 {
				restart(&other, "b", leader)
				if name == "range" {
					restart(&leader, "a", other)
				}
			}
			leader.leave(t)
			other.leave(t)
			rest(values, seen)
			seen.wantEachOnce(t, n)
			wantCommitted(t, topic, topic, n)
		})
	}
}

// TestFencedInstance: a second member of the same instance id fences the
// first, and a static member can be removed by its instance id.
func TestFencedInstance(t *testing.T) {
	topic := newTopic(t, 2)
	write(t, topic, 0, 10)
	fenced := make(chan error, 1)
	first := franz(t, kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic), kgo.InstanceID("x"), kgo.HeartbeatInterval(50*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if fs := first.PollFetches(limit(t)); fs.Err() != nil {
		t.Fatal(fs.Err())
	}
	ctx := limit(t)
	go func() {
		for {
			if err := first.PollFetches(ctx).Err(); err != nil {
				fenced <- err
				return
			}
		}
	}()
	second := franz(t, kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic), kgo.InstanceID("x"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if fs := second.PollFetches(ctx); fs.Err() != nil {
		t.Fatal(fs.Err())
	}
	if err := <-fenced; !errors.Is(err, kerr.FencedInstanceID) {
		t.Errorf("the first of two members with one instance id got %v, want FENCED_INSTANCE_ID", err)
	}
	// A static member that is removed by its instance id is gone at once.
	left := must[kadm.LeaveGroupResponses](t)(admin(t).LeaveGroup(ctx, kadm.LeaveGroup(topic).InstanceIDs("x")))
	if err := left["x"].Err; err != nil {
		t.Error(err)
	}
	g := must[kadm.DescribedGroups](t)(admin(t).DescribeGroups(ctx, topic))[topic]
	if len(g.Members) != 0 {
		t.Errorf("after LeaveGroup by instance id: %+v", g)
	}
}

// TestDeadMember: a member whose connections are gone and that never says
// goodbye is expelled when its session ends, and the other takes over from
// what was committed.
func TestDeadMember(t *testing.T) {
	t.Parallel() // spends its time waiting for the session's end
	topic := newTopic(t, 4)
	values, seen := make(chan string, 10_000), tally{}
	plug := &plug{}
	a := join(t, topic, topic, values)
	b := join(t, topic, topic, values, kgo.Dialer(plug.dial))
	awaitShares(t, 4, a, b)
	write(t, topic, 0, 400)
	collect(t, values, 400, seen)
	plug.pull()
	write(t, topic, 400, 800)
	awaitShares(t, 4, a)
	collect(t, values, 800, seen)
	a.leave(t)
	rest(values, seen)
	seen.wantEachOnce(t, 800)
	wantCommitted(t, topic, topic, 800)
	b.mu.Lock()
	b.err = nil // its connections are dead: of course it has errors
	b.mu.Unlock()
}

// plug dials until it is pulled; then all its connections are gone.
type plug struct {
	mu     sync.Mutex // guards what follows
	pulled bool
	conns  []net.Conn
}

func (p *plug) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pulled {
		return nil, errors.New("the plug is pulled")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err == nil {
		p.conns = append(p.conns, c)
	}
	return c, err
}

func (p *plug) pull() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pulled = true
	for _, c := range p.conns {
		c.Close()
	}
}

// saramaMember is one member of a sarama group.
type saramaMember struct {
	group  sarama.ConsumerGroup
	values chan<- string
	stop   context.CancelFunc
	done   chan error
	claims atomic.Int32
}

func (m *saramaMember) Setup(s sarama.ConsumerGroupSession) error {
	n := 0
	for _, ps := range s.Claims() {
		n += len(ps)
	}
	m.claims.Store(int32(n))
	return nil
}

func (m *saramaMember) Cleanup(sarama.ConsumerGroupSession) error {
	m.claims.Store(0)
	return nil
}

func (m *saramaMember) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for {
		select {
		case msg, ok := <-c.Messages():
			if !ok {
				return nil
			}
			m.values <- string(msg.Value)
			s.MarkMessage(msg, "")
		case <-s.Context().Done():
			return nil
		}
	}
}

func joinSarama(t testing.TB, topic string, values chan<- string, strategy sarama.BalanceStrategy) *saramaMember {
	t.Helper()
	cfg := saramaConfig()
	cfg.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{strategy}
	cfg.Consumer.Group.Session.Timeout = 6 * time.Second
	cfg.Consumer.Group.Heartbeat.Interval = 100 * time.Millisecond
	cfg.Consumer.Offsets.AutoCommit.Interval = 50 * time.Millisecond
	m := &saramaMember{group: must[sarama.ConsumerGroup](t)(sarama.NewConsumerGroup([]string{broker}, topic, cfg)), values: values, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	m.stop = cancel
	go func() {
		for range m.group.Errors() {
		}
	}()
	go func() {
		for ctx.Err() == nil {
			if err := m.group.Consume(ctx, []string{topic}, m); err != nil && ctx.Err() == nil {
				m.done <- err
				return
			}
		}
		m.done <- nil
	}()
	t.Cleanup(func() { cancel(); m.group.Close() })
	return m
}

func (m *saramaMember) leave(t testing.TB) {
	t.Helper()
	m.stop()
	if err := errors.Join(<-m.done, m.group.Close()); err != nil {
		t.Error(err)
	}
}

func TestGroupOfSarama(t *testing.T) {
	for _, strategy := range []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange(), sarama.NewBalanceStrategyRoundRobin(), sarama.NewBalanceStrategySticky()} {
		t.Run(strategy.Name(), func(t *testing.T) {
			topic := newTopic(t, 6)
			values, seen := make(chan string, 10_000), tally{}
			share := func(ms ...*saramaMember) {
				t.Helper()
				eventually(t, "fair shares", func() error {
					for i, m := range ms {
						if n := m.claims.Load(); int(n) != 6/len(ms) {
							return fmt.Errorf("member %d has %d partitions", i, n)
						}
					}
					return nil
				})
			}
			write(t, topic, 0, 300)
			a := joinSarama(t, topic, values, strategy)
			share(a)
			b := joinSarama(t, topic, values, strategy)
			write(t, topic, 300, 600)
			share(a, b)
			c := joinSarama(t, topic, values, strategy)
			write(t, topic, 600, 900)
			share(a, b, c)
			a.leave(t)
			share(b, c)
			write(t, topic, 900, 1200)
			collect(t, values, 1200, seen)
			b.leave(t)
			c.leave(t)
			write(t, topic, 1200, 1300)
			d := joinSarama(t, topic, values, strategy)
			collect(t, values, 1300, seen)
			d.leave(t)
			rest(values, seen)
			seen.wantEachOnce(t, 1300)
			wantCommitted(t, topic, topic, 1300)
		})
	}
}

// TestGroupOfKafkaGo: kafka-go hands out records of partitions that it no
// longer has, so that while members come and go a record may come again; but
// none may be missing, and when the group is quiet each comes once.
func TestGroupOfKafkaGo(t *testing.T) {
	topic := newTopic(t, 4)
	values, seen := make(chan string, 10_000), tally{}
	write(t, topic, 0, 300)
	a, b := joinKafkago(t, topic, values), joinKafkago(t, topic, values)
	eventually(t, "two members share the partitions", func() error {
		g := must[kadm.DescribedGroups](t)(admin(t).DescribeGroups(limit(t), topic))[topic]
		if g.State != "Stable" || len(g.Members) != 2 {
			return fmt.Errorf("%s with %d members", g.State, len(g.Members))
		}
		return nil
	})
	write(t, topic, 300, 600)
	collect(t, values, 600, seen)
	a()
	write(t, topic, 600, 900)
	collect(t, values, 900, seen)
	b()
	wantCommitted(t, topic, topic, 900)
	rest(values, seen)
	write(t, topic, 900, 1000)
	late := tally{}
	c := joinKafkago(t, topic, values)
	collect(t, values, 100, late)
	c()
	rest(values, late)
	for v, n := range late {
		if n != 1 || seen[v] != 0 {
			t.Errorf("record %s came %d times after it was committed before %d times", v, n, seen[v])
		}
		seen[v]++
	}
	if len(seen) != 1000 {
		t.Errorf("%d records came, want 1000", len(seen))
	}
	wantCommitted(t, topic, topic, 1000)
}

func joinKafkago(t testing.TB, topic string, values chan<- string) (leave func()) {
	t.Helper()
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{broker}, GroupID: topic, Topic: topic, StartOffset: kafka.FirstOffset, MaxWait: 100 * time.Millisecond,
		HeartbeatInterval: 100 * time.Millisecond, SessionTimeout: 6 * time.Second, RebalanceTimeout: 6 * time.Second, JoinGroupBackoff: 50 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for {
			m, err := r.FetchMessage(ctx)
			if err == nil {
				values <- string(m.Value)
				err = r.CommitMessages(context.WithoutCancel(ctx), m)
			}
			if ctx.Err() != nil {
				done <- nil
				return
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	var once sync.Once
	leave = func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-done, r.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(leave)
	return leave
}
