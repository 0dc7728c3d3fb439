package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/balance"
	"github.com/firnlog/firn/record"
)

const (
	drainedConfig = "firn.drained.brokers"
	rateConfig    = "firn.move.rate"
	movesConfig   = "firn.balance.moves"
	moveLook      = time.Second // between looks at moves that are under way
)

// mover sees and moves replicas.
type mover struct {
	a          *app
	cl         *kgo.Client
	adm        *kadm.Client
	controller int32 // as was told last; -1: not known
}

// withMover connects and calls f. Requests have times of their own, so that what
// takes long may.
func (a *app) withMover(ctx context.Context, f func(context.Context, *mover) error) error {
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	return f(ctx, &mover{a: a, cl: cl, adm: kadm.NewClient(cl), controller: -1})
}

// movesUnderWay are moves by partition.
type movesUnderWay map[string]kmsg.ListPartitionReassignmentsResponseTopicPartition

// ask sends a request to the controller, which knows first what became of moves,
// or else to any broker.
func (m *mover) ask(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	if m.controller >= 0 {
		one, cancel := context.WithTimeout(ctx, askOneWithin)
		resp, err := m.cl.Broker(int(m.controller)).Request(one, req)
		if cancel(); err == nil || ctx.Err() != nil {
			return resp, err
		}
		m.controller = -1
	}
	return m.cl.Request(ctx, req)
}

// moving asks for the moves that are under way. kadm has a function that asks
// for none when it is told of no topics.
func (m *mover) moving(ctx context.Context) (movesUnderWay, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	moving, err := askMoves(ctx, m.ask)
	return moving, m.a.explain("moves under way", err, "")
}

// places is where replicas are now.
type places struct {
	cluster balance.Cluster
	moving  movesUnderWay
	behind  map[int32]int // replicas that are not in sync, by broker, of what is not moving
	drained []int32
	moves   int // firn.balance.moves, 0 where brokers have no such config
}

// look asks where replicas are, without what they carry.
func (m *mover) look(ctx context.Context) (*places, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	meta, err := askFor[*kmsg.MetadataResponse](ctx, m.ask, kmsg.NewPtrMetadataRequest()) // kadm's are seconds old
	if err != nil {
		return nil, m.a.explain("metadata", err, "")
	}
	m.controller = meta.ControllerID
	p := &places{behind: map[int32]int{}}
	if p.moving, err = m.moving(ctx); err != nil {
		return nil, err
	}
	if err := m.configs(ctx, meta, p); err != nil {
		return nil, err
	}
	brokers := map[int32]balance.Broker{}
	for _, b := range meta.Brokers {
		drained := slices.Contains(p.drained, b.NodeID)
		brokers[b.NodeID] = balance.Broker{ID: record.BrokerID(b.NodeID), Rack: deref(b.Rack), Usable: !drained, Drained: drained}
	}
	for _, t := range meta.Topics {
		if t.Topic == nil || kerr.ErrorForCode(t.ErrorCode) != nil {
			continue // deleted meanwhile
		}
		for i := range t.Partitions {
			p.add(*t.Topic, &t.Partitions[i], brokers)
		}
	}
	slices.SortFunc(p.cluster.Partitions, func(x, y balance.Partition) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	for _, id := range sortedKeys(brokers) {
		p.cluster.Brokers = append(p.cluster.Brokers, brokers[id])
	}
	return p, nil
}

// add takes in a partition, and brokers that are only known by it.
func (p *places) add(topic string, d *kmsg.MetadataResponseTopicPartition, brokers map[int32]balance.Broker) {
	part := balance.Partition{TopicPartition: record.TopicPartition{Topic: topic, Partition: record.PartitionID(d.Partition)}}
	r, moving := p.moving[part.TopicPartition.String()]
	part.Fixed = d.Leader < 0 || moving
	for _, id := range d.Replicas {
		if moving && slices.Contains(r.RemovingReplicas, id) {
			continue
		}
		part.Replicas = append(part.Replicas, record.BrokerID(id))
		if _, known := brokers[id]; !known { // it is dead
			brokers[id] = balance.Broker{ID: record.BrokerID(id), Drained: slices.Contains(p.drained, id)}
		}
		if !moving && !slices.Contains(d.ISR, id) {
			p.behind[id]++
		}
	}
	p.cluster.Partitions = append(p.cluster.Partitions, part)
}

// configs asks for what brokers are told of moves. Kafka has no such configs.
func (m *mover) configs(ctx context.Context, meta *kmsg.MetadataResponse, p *places) error {
	asked := meta.ControllerID
	if asked < 0 && len(meta.Brokers) > 0 {
		asked = meta.Brokers[0].NodeID
	}
	all, err := m.adm.DescribeBrokerConfigs(ctx, asked)
	if err == nil && len(all) > 0 {
		err = all[0].Err
	}
	if err != nil {
		return m.a.explain(fmt.Sprintf("configs of broker %d", asked), err, "")
	}
	for _, c := range all[0].Configs {
		switch c.Key {
		case drainedConfig:
			for _, item := range strings.Split(c.MaybeValue(), ",") {
				if id, err := strconv.ParseInt(strings.TrimSpace(item), 10, 32); err == nil {
					p.drained = append(p.drained, int32(id))
				}
			}
		case movesConfig:
			p.moves, _ = strconv.Atoi(c.MaybeValue())
		}
	}
	return nil
}

// weigh asks the brokers what partitions carry, and fills it in. Who does not
// answer is told, and counts as nothing.
func (m *mover) weigh(ctx context.Context, p *places) balance.Loads {
	loads := balance.Loads{}
	for _, b := range p.cluster.Brokers {
		if !b.Usable && !b.Drained {
			continue
		}
		if err := m.weighOne(ctx, int32(b.ID), loads); err != nil && ctx.Err() == nil {
			fmt.Fprintf(m.a.err, "firn: broker %d does not say what its partitions carry: %s\n", b.ID, err)
		}
	}
	for i := range p.cluster.Partitions {
		part := &p.cluster.Partitions[i]
		part.Carried = loads[part.TopicPartition]
	}
	return loads
}

func (m *mover) weighOne(ctx context.Context, id int32, into balance.Loads) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	resp, err := m.cl.Broker(int(id)).RetriableRequest(ctx, kmsg.NewPtrDescribeLogDirsRequest())
	if err != nil {
		return err
	}
	into.Add(resp.(*kmsg.DescribeLogDirsResponse))
	return nil
}

// alterBrokers changes a config of all brokers.
func (m *mover) alterBrokers(ctx context.Context, op kadm.IncrementalOp, name, value string) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	resps, err := m.adm.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: name, Value: &value}})
	message := ""
	if err == nil && len(resps) > 0 {
		err, message = resps[0].Err, resps[0].ErrMessage
	}
	return m.a.explain("config "+name+" of all brokers", err, message)
}

// throttled has f run while what is moved is copied at so many bytes per second;
// 0: as the brokers' config says.
func (m *mover) throttled(ctx context.Context, rate int64, f func() error) error {
	if rate == 0 {
		return f()
	}
	ask, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	all, err := m.adm.DescribeBrokerConfigs(ask) // what is set for all
	if err == nil && len(all) > 0 {
		err = all[0].Err
	}
	if err != nil {
		return m.a.explain("configs of all brokers", err, "")
	}
	op, before := kadm.DeleteConfig, ""
	for _, c := range all[0].Configs {
		if c.Key == rateConfig {
			op, before = kadm.SetConfig, c.MaybeValue()
		}
	}
	if err := m.alterBrokers(ctx, kadm.SetConfig, rateConfig, strconv.FormatInt(rate, 10)); err != nil {
		return err
	}
	err = f()
	return errors.Join(err, m.alterBrokers(context.WithoutCancel(ctx), op, rateConfig, before))
}

// begin asks for moves. Those that are refused are told; the error is that of
// all of them.
func (m *mover) begin(ctx context.Context, moves []balance.Move) (refused int, err error) {
	var req kadm.AlterPartitionAssignmentsReq
	for _, mv := range moves {
		req.Assign(mv.Topic, int32(mv.Partition), int32s(mv.To))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminTimeout)
	defer cancel()
	resps, err := m.adm.AlterPartitionAssignments(ctx, req)
	if err != nil {
		return 0, m.a.explain("moves", err, "")
	}
	for _, r := range resps.Sorted() {
		if r.Err != nil {
			refused++
			fmt.Fprintf(m.a.err, "firn: %s\n", m.a.explain(fmt.Sprintf("move of %s-%d", r.Topic, r.Partition), r.Err, r.ErrMessage))
		}
	}
	return refused, nil
}

// cancel takes back every move that is under way.
func (m *mover) cancel(ctx context.Context) (n int, err error) {
	ctx, done := context.WithTimeout(ctx, adminTimeout)
	defer done()
	moving, err := m.moving(ctx)
	if err != nil || len(moving) == 0 {
		return 0, err
	}
	var req kadm.AlterPartitionAssignmentsReq
	for name, p := range moving {
		req.CancelAssign(strings.TrimSuffix(name, fmt.Sprintf("-%d", p.Partition)), p.Partition)
	}
	resps, err := m.adm.AlterPartitionAssignments(ctx, req)
	if err != nil {
		return 0, m.a.explain("moves", err, "")
	}
	for _, r := range resps.Sorted() {
		switch {
		case r.Err == nil:
			n++
		case !errors.Is(r.Err, kerr.NoReassignmentInProgress): // it came to its end meanwhile
			return n, m.a.explain(fmt.Sprintf("move of %s-%d", r.Topic, r.Partition), r.Err, r.ErrMessage)
		}
	}
	return n, nil
}

// elect has partitions led by the first of their replicas, as far as they can.
func (m *mover) elect(ctx context.Context, moves []balance.Move) {
	set := kadm.TopicsSet{}
	for _, mv := range moves {
		set.Add(mv.Topic, int32(mv.Partition))
	}
	if len(set) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	if _, err := m.adm.ElectLeaders(ctx, kadm.ElectPreferredReplica, set); err != nil && ctx.Err() == nil {
		fmt.Fprintf(m.a.err, "firn: %s; the brokers do it later\n", m.a.explain("elections of the new leaders", err, ""))
	}
}

// execute carries out moves, atOnce at a time, and tells of them. When ctx ends
// no more are begun, and those that are under way are waited for.
func (m *mover) execute(ctx context.Context, moves []balance.Move, atOnce int) error {
	total := int64(0)
	for _, mv := range moves {
		total += mv.Bytes
	}
	bar, told := m.a.progress("moving", total), time.Now()
	defer bar.stop()
	wait := context.WithoutCancel(ctx)
	left, under := moves, map[record.TopicPartition]balance.Move{}
	var begun []balance.Move
	refused, stopped := 0, false
	for {
		p, err := m.moving(wait)
		if err != nil {
			return err
		}
		for tp, mv := range under {
			if _, still := p[tp.String()]; !still {
				delete(under, tp)
				bar.advance(mv.Bytes)
			}
		}
		if ctx.Err() != nil && !stopped {
			stopped, left = true, nil
			fmt.Fprintf(m.a.err, "firn: no more is begun; waiting for %s under way (interrupt again to leave them to the brokers)\n", plural(len(under), "move"))
		}
		if len(left)+len(under) == 0 {
			break
		}
		if n := min(atOnce-max(len(p), len(under)), len(left)); n > 0 {
			bad, err := m.begin(ctx, left[:n])
			if err != nil {
				return err
			}
			for _, mv := range left[:n] {
				under[mv.TopicPartition] = mv
			}
			begun, left, refused = append(begun, left[:n]...), left[n:], refused+bad
		}
		if bar == nil && time.Since(told) > 10*time.Second {
			told = time.Now()
			fmt.Fprintf(m.a.err, "%d of %s done\n", len(begun)-len(under), plural(len(moves), "move"))
		}
		if len(left)+len(under) > 0 {
			time.Sleep(moveLook / 4)
		}
	}
	m.elect(wait, begun)
	switch {
	case stopped:
		return failf("see what is left with: firn cluster rebalance --plan", "stopped: %d of %s are done", len(begun)-refused, plural(len(moves), "move"))
	case refused > 0:
		return failf("see what is left with: firn cluster rebalance --plan", "%d of %s were refused", refused, plural(len(moves), "move"))
	}
	return nil
}

// behindText names the brokers with replicas that are not in sync, "" when
// there are none.
func (p *places) behindText() string {
	var all []string
	for _, id := range slices.Sorted(maps.Keys(p.behind)) {
		if !slices.Contains(p.drained, id) {
			all = append(all, fmt.Sprintf("%s of broker %d", plural(p.behind[id], "replica"), id))
		}
	}
	return strings.Join(all, ", ")
}
