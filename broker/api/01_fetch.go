package api

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// Fetch, versions 4–18.
//
//	 4  isolation level, last stable offset, aborted transactions (KIP-98)
//	 5  log start offset
//	 7  sessions, error code of the whole reply (KIP-227)
//	 9  current leader epoch (KIP-320)
//	11  rack, preferred read replica (KIP-392)
//	12  flexible; last fetched and diverging epoch (KIP-595)
//	13  topic ids instead of names (KIP-516)
//	15  replica state instead of replica id (KIP-903)
//	16  current leader and its address in the reply (KIP-951)
//	17  replica directory id (KIP-853), of followers
//	18  high watermark known to the fetcher (KIP-1166), of followers
func (a *API) fetch(c *call) {
	req := c.req.Body.(*kmsg.FetchRequest)
	resp := response[*kmsg.FetchResponse](c)
	if iso := record.Isolation(req.IsolationLevel); iso != record.ReadUncommitted && iso != record.ReadCommitted {
		refuseFetch(req, resp, kerr.InvalidRequest)
		c.send(resp)
		return
	}
	byID := req.Version >= 13
	wanted, forget := fetchParts(req, byID)
	id, epoch := req.SessionID, req.SessionEpoch
	if req.Version < 7 {
		id, epoch = 0, noSessionEpoch
	}
	fc, err := a.sessions.begin(id, epoch, byID, wanted, forget, a.deps.Meta.Image())
	if err != nil {
		resp.ErrorCode = codeOf(err)
		c.send(resp)
		return
	}
	f := &fetchCall{a: a, c: c, req: req, resp: resp, fc: fc}
	f.maxBytes = min(max(0, int(req.MaxBytes)), a.cfg.MaxFetchBytes)
	f.minBytes = min(int64(req.MinBytes), int64(a.cfg.MaxFetchBytes))
	f.deadline = c.start.Add(min(time.Duration(max(0, req.MaxWaitMillis))*time.Millisecond, maxFetchWait))
	f.first()
}

// refuseFetch makes resp an error of the whole request. Up to version 12 it is
// told for each partition too.
func refuseFetch(req *kmsg.FetchRequest, resp *kmsg.FetchResponse, err *kerr.Error) {
	resp.ErrorCode = err.Code
	if req.Version >= 13 {
		return
	}
	for i := range req.Topics {
		out := kmsg.NewFetchResponseTopic()
		out.Topic = req.Topics[i].Topic
		for _, p := range req.Topics[i].Partitions {
			po := newFetchPartition(p.Partition)
			po.ErrorCode, po.RecordBatches = err.Code, []byte{}
			po.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
			out.Partitions = append(out.Partitions, po)
		}
		resp.Topics = append(resp.Topics, out)
	}
}

const (
	// maxFetchWait bounds a long poll whatever the client asks for.
	maxFetchWait = 5 * time.Minute
	// coldGrace is what cold partitions get when hot ones have enough to
	// return: a backfill must not slow the tail down.
	coldGrace = 100 * time.Millisecond
	// coldPerFetch bounds the cold reads of one request.
	coldPerFetch = 16
)

// fetchParts puts the request into a list of partitions to read and one of
// those to forget.
func fetchParts(req *kmsg.FetchRequest, byID bool) (wanted []*fetchPart, forget []fetchKey) {
	n := 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	all := make([]fetchPart, 0, n)
	wanted = make([]*fetchPart, 0, n)
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			w := fetchWant{offset: p.FetchOffset, maxBytes: p.PartitionMaxBytes, leaderEpoch: p.CurrentLeaderEpoch, fetchedEpoch: p.LastFetchedEpoch}
			if req.Version < 9 || w.leaderEpoch < 0 {
				w.leaderEpoch = -1
			}
			if req.Version < 12 {
				w.fetchedEpoch = -1
			}
			all = append(all, fetchPart{key: keyOf(t.Topic, t.TopicID, p.Partition, byID), want: w})
			wanted = append(wanted, &all[len(all)-1])
		}
	}
	for i := range req.ForgottenTopics {
		t := &req.ForgottenTopics[i]
		for _, p := range t.Partitions {
			forget = append(forget, keyOf(t.Topic, t.TopicID, p, byID))
		}
	}
	return wanted, forget
}

func keyOf(topic string, id record.TopicID, p int32, byID bool) fetchKey {
	if byID {
		return fetchKey{id: id, p: p}
	}
	return fetchKey{topic: topic, p: p}
}

// fetchReply is what one partition gives.
type fetchReply struct {
	out   kmsg.FetchResponseTopicPartition
	spans []record.Span
	place int // in the answer: those that are not there come last
}

// Places in an answer, in Kafka's order.
const (
	placeKnown = iota
	placeUnknownID
	placeUnknownPartition
	places
)

func (r *fetchReply) size() int64 { return record.SpansSize(r.spans) }

func (r *fetchReply) release() {
	record.ReleaseSpans(r.spans)
	r.spans = nil
}

func releaseAll(spans [][][]record.Span) {
	for _, t := range spans {
		for _, p := range t {
			record.ReleaseSpans(p)
		}
	}
}

// fetchCall is one Fetch request.
type fetchCall struct {
	a        *API
	c        *call
	req      *kmsg.FetchRequest
	resp     *kmsg.FetchResponse
	fc       *fetchContext
	maxBytes int
	minBytes int64
	deadline time.Time // of the long poll
	img      *metastore.Image
}

// first reads what is on local disk while the connection's reader waits, and
// goes on elsewhere if that is not enough.
func (f *fetchCall) first() {
	done := false
	defer func() {
		if !done { // a panic is on its way
			f.release()
		}
	}()
	f.firstPass()
	done = true
}

func (f *fetchCall) firstPass() {
	if len(f.fc.parts) == 0 {
		f.finish()
		return
	}
	state := f.readHot()
	now := time.Now()
	if len(state.cold) == 0 && (state.enough(f) || !now.Before(f.deadline)) {
		f.finish()
		return
	}
	if len(state.cold) == 0 && f.a.waiting.Load() >= int64(f.a.cfg.MaxWaitingFetches) {
		fetchesNotKept.Inc()
		f.finish()
		return
	}
	f.a.waiting.Add(1)
	go func() {
		defer f.a.waiting.Add(-1)
		f.a.guard(f.c, func() {
			defer f.releaseIfUnanswered()
			f.poll(state)
		})
	}()
}

func (f *fetchCall) releaseIfUnanswered() {
	if !f.c.replied.Load() {
		f.release()
	}
}

func (f *fetchCall) release() {
	for _, p := range f.fc.parts {
		p.reply.release()
	}
}

// readState is the outcome of one pass over the partitions.
type readState struct {
	bytes    int64
	failed   bool // a partition that exists has an error or diverges
	readable int  // partitions that could be read at all
	cold     []coldPart
	oneBatch bool // the right to an oversized batch was not used yet
}

type coldPart struct {
	part     *fetchPart
	p        *partition.Partition
	maxBytes int
}

// enough says whether the request can be answered without waiting.
func (s *readState) enough(f *fetchCall) bool {
	return s.bytes >= f.minBytes || s.failed || s.readable == 0
}

// poll waits until there is enough, reading again whenever a partition moves.
func (f *fetchCall) poll(state readState) {
	wake := make(chan struct{}, 1)
	defer f.subscribe(wake)()
	timer := time.NewTimer(time.Until(f.deadline))
	defer timer.Stop()
	again := len(state.cold) == 0 // something may have come before subscribing
	for {
		if again {
			f.release()
			state = f.readHot()
		}
		if len(state.cold) > 0 {
			f.readCold(&state, wake)
			f.finish() // Kafka too answers when a remote read is over, whatever it gave
			return
		}
		if state.enough(f) || !time.Now().Before(f.deadline) {
			f.finish()
			return
		}
		select {
		case <-wake:
		case <-timer.C:
			f.release()
			f.readHot()
			f.finish()
			return
		case <-f.c.ctx.Done():
			f.release()
			f.c.reply(wire.Reply{Close: true, Reason: "the connection ended"})
			return
		}
		again = true
	}
}

// subscribe has wake called when one of the partitions moves.
func (f *fetchCall) subscribe(wake chan struct{}) (cancel func()) {
	cancels := make([]func(), 0, len(f.fc.parts))
	img := f.a.deps.Meta.Image()
	for _, fp := range f.fc.parts {
		if p, err := f.a.open(img.Topics[fp.topic], fp.key.p); err == nil {
			cancels = append(cancels, p.Subscribe(wake))
		}
	}
	return func() {
		for _, c := range cancels {
			c()
		}
	}
}

// readHot reads every partition that has what is asked for on local disk, in
// order, within the request's bytes; those that do not are listed in cold.
func (f *fetchCall) readHot() readState {
	state := readState{oneBatch: true}
	left := f.maxBytes
	f.img = f.a.deps.Meta.Image()
	for _, fp := range f.fc.parts {
		fp.reply = fetchReply{out: newFetchPartition(fp.key.p)}
		p, known, err := f.resolve(fp)
		if err != nil {
			state.readable += known
			state.failed = state.failed || known > 0
			f.failPart(fp, err)
			if known == 0 {
				fp.reply.place = placeUnknownPartition
				if errors.Is(err, kerr.UnknownTopicID) {
					fp.reply.place = placeUnknownID
				}
				fp.reply.out.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
			}
			continue
		}
		state.readable++
		budget := min(left, max(0, int(fp.want.maxBytes)))
		if p.IsCold(record.Offset(fp.want.offset)) && checkEpoch(fp.want.leaderEpoch, p.State().Epoch) == nil {
			f.offsets(fp, p.State())
			if (budget > 0 || state.oneBatch) && len(state.cold) < coldPerFetch {
				state.cold = append(state.cold, coldPart{fp, p, budget})
				left -= budget
				state.oneBatch = false
			}
			continue
		}
		n, failed := f.read(f.c.ctx, fp, p, budget, state.oneBatch)
		state.failed = state.failed || failed
		if n > 0 {
			state.oneBatch = false
			state.bytes += n
			left = max(0, left-int(n))
		}
	}
	return state
}

// resolve finds the partition that fp means. known is 1 when the topic has
// such a partition, whether or not it can be read here.
func (f *fetchCall) resolve(fp *fetchPart) (p *partition.Partition, known int, err error) {
	if fp.topic == "" && !fp.key.id.IsZero() || f.fc.byID && fp.key.id.IsZero() {
		return nil, 0, kerr.UnknownTopicID
	}
	t := f.img.Topics[fp.topic]
	if t == nil || fp.key.p < 0 || int(fp.key.p) >= len(t.Partitions) {
		return nil, 0, kerr.UnknownTopicOrPartition
	}
	if f.fc.byID && t.ID != fp.key.id {
		return nil, 1, kerr.InconsistentTopicID
	}
	if f.isReplica() {
		return nil, 1, kerr.NotLeaderForPartition // no other broker has a replica of it
	}
	if f.req.MaxBytes < 0 || fp.want.maxBytes < 0 {
		return nil, 1, kerr.InvalidRequest
	}
	p, err = f.a.open(t, fp.key.p)
	return p, 1, err
}

// isReplica says whether the request comes from somebody who says to be a
// broker.
func (f *fetchCall) isReplica() bool {
	if f.req.Version >= 15 {
		return f.req.ReplicaState.ID >= 0
	}
	return f.req.ReplicaID >= 0
}

// read reads one partition into its reply.
func (f *fetchCall) read(ctx context.Context, fp *fetchPart, p *partition.Partition, maxBytes int, oneBatch bool) (n int64, failed bool) {
	res, err := p.Read(ctx, partition.ReadRequest{
		Offset:           record.Offset(fp.want.offset),
		MaxBytes:         maxBytes,
		MinOneBatch:      oneBatch,
		Isolation:        f.isolation(),
		CurrentEpoch:     record.Epoch(fp.want.leaderEpoch),
		LastFetchedEpoch: record.Epoch(fp.want.fetchedEpoch),
	})
	out := &fp.reply.out
	if err != nil {
		record.ReleaseSpans(res.Spans)
		if ended(err) { // nothing yet: the bytes are there at the next try
			f.offsets(fp, p.State())
			return 0, false
		}
		f.failPart(fp, err)
		return 0, true
	}
	out.HighWatermark, out.LastStableOffset, out.LogStartOffset = int64(res.HighWatermark), int64(res.LastStableOffset), int64(res.LogStartOffset)
	// As with Kafka, where not even one batch fits there is no list.
	tooSmall := len(res.Spans) == 0 && maxBytes > 0 && fp.want.offset < out.LastStableOffset
	if f.isolation() == record.ReadCommitted && !tooSmall {
		out.AbortedTransactions = make([]kmsg.FetchResponseTopicPartitionAbortedTransaction, 0, len(res.Aborted))
		for _, t := range res.Aborted {
			at := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
			at.ProducerID, at.FirstOffset = t.ProducerID, int64(t.FirstOffset)
			out.AbortedTransactions = append(out.AbortedTransactions, at)
		}
	}
	if d := res.Diverging; d != nil && f.req.Version >= 12 {
		out.DivergingEpoch.Epoch, out.DivergingEpoch.EndOffset = int32(d.Epoch), int64(d.Start)
		record.ReleaseSpans(res.Spans)
		return 0, true
	}
	fp.reply.spans = res.Spans
	return fp.reply.size(), false
}

func (f *fetchCall) isolation() record.Isolation {
	if f.req.IsolationLevel == int8(record.ReadCommitted) {
		return record.ReadCommitted
	}
	return record.ReadUncommitted
}

func newFetchPartition(p int32) kmsg.FetchResponseTopicPartition {
	out := kmsg.NewFetchResponseTopicPartition()
	out.Partition = p
	out.HighWatermark, out.LastStableOffset, out.LogStartOffset = -1, -1, -1
	return out
}

// offsets fills in a reply without records.
func (f *fetchCall) offsets(fp *fetchPart, s partition.State) {
	out := &fp.reply.out
	out.HighWatermark, out.LastStableOffset, out.LogStartOffset = int64(s.HighWatermark), int64(s.LastStableOffset), int64(s.LogStart)
	if f.isolation() == record.ReadCommitted {
		out.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
	}
}

// failPart makes fp's reply an error.
func (f *fetchCall) failPart(fp *fetchPart, err error) {
	fp.reply.release()
	fp.reply.out = newFetchPartition(fp.key.p)
	out := &fp.reply.out
	out.ErrorCode = codeOf(err)
	if out.ErrorCode == kerr.UnknownServerError.Code || out.ErrorCode == kerr.KafkaStorageError.Code {
		f.a.failed("fetch failed", "topic", fp.topic, "partition", fp.key.p, "offset", fp.want.offset, "error", err)
	}
	switch out.ErrorCode {
	case kerr.NotLeaderForPartition.Code, kerr.FencedLeaderEpoch.Code:
		if t := f.img.Topics[fp.topic]; f.req.Version >= 16 && t != nil && int(fp.key.p) < len(t.Partitions) {
			mp := t.Partitions[fp.key.p]
			out.CurrentLeader.LeaderID, out.CurrentLeader.LeaderEpoch = int32(mp.Leader), int32(mp.Epoch)
		}
	}
}

// finish sends the reply; the spans of it go to the connection, all others
// are released.
func (f *fetchCall) finish() {
	id, parts, err := f.a.sessions.finish(f.fc)
	f.resp.SessionID = id
	if err != nil {
		f.release()
		f.resp.ErrorCode = codeOf(err)
		f.c.send(f.resp)
		return
	}
	reply := &wire.FetchReply{Body: f.resp}
	for place := range places {
		for _, fp := range parts {
			if fp.reply.place == place {
				f.addPart(reply, fp)
			}
		}
	}
	for _, fp := range f.fc.parts {
		fp.reply.release() // what was not taken into the reply
	}
	f.c.reply(wire.Reply{Fetch: reply})
}

func (f *fetchCall) addPart(reply *wire.FetchReply, fp *fetchPart) {
	name := fp.key.topic
	last := len(f.resp.Topics) - 1
	if last < 0 || f.resp.Topics[last].Topic != name || f.resp.Topics[last].TopicID != fp.key.id {
		t := kmsg.NewFetchResponseTopic()
		t.Topic, t.TopicID = name, fp.key.id
		f.resp.Topics = append(f.resp.Topics, t)
		reply.Spans = append(reply.Spans, nil)
		last++
	}
	t := &f.resp.Topics[last]
	t.Partitions = append(t.Partitions, fp.reply.out)
	reply.Spans[last] = append(reply.Spans[last], fp.reply.spans)
	fp.reply.spans = nil
	if l := fp.reply.out.CurrentLeader.LeaderID; l >= 0 {
		f.addBroker(record.BrokerID(l))
	}
}

func (f *fetchCall) addBroker(id record.BrokerID) {
	b, ok := f.img.Brokers[id]
	if !ok {
		return
	}
	for _, have := range f.resp.Brokers {
		if have.NodeID == int32(id) {
			return
		}
	}
	nb := kmsg.NewFetchResponseBroker()
	nb.NodeID, nb.Host, nb.Port, nb.Rack = int32(id), b.Host, b.Port, rack(b)
	f.resp.Brokers = append(f.resp.Brokers, nb)
}
