package api

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
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
	f := &fetchCall{a: a, c: c, version: req.Version, replica: replicaOf(req), refused: req.MaxBytes < 0, resp: resp, fc: fc}
	f.isolation = record.Isolation(req.IsolationLevel)
	f.nearness(req)
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
			po := kmsg.NewFetchResponseTopicPartition()
			po.Partition = p.Partition
			po.HighWatermark, po.LastStableOffset, po.LogStartOffset = -1, -1, -1
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
			w := fetchWant{offset: p.FetchOffset, logStart: p.LogStartOffset, maxBytes: p.PartitionMaxBytes, leaderEpoch: p.CurrentLeaderEpoch, fetchedEpoch: p.LastFetchedEpoch}
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
	spans     []record.Span
	extent    partition.Extent   // as of the read; offsets are -1 where they are not told
	diverging *record.EpochStart // where the reader's history ends to be ours
	aborted   []record.AbortedTxn
	listed    bool            // there is a list of aborted transactions, be it empty
	elsewhere bool            // to be read from another replica (KIP-392)
	from      record.BrokerID // that replica
	code      int16
	place     int8 // in the answer: those that are not there come last
}

// untold is an extent that is not told.
var untold = partition.Extent{LogStart: -1, LastStableOffset: -1, HighWatermark: -1}

// Places in an answer, in Kafka's order.
const (
	placeKnown int8 = iota
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
	a         *API
	c         *call
	version   int16
	isolation record.Isolation
	replica   replicaID                  // whose log it is for
	near      func(record.BrokerID) bool // picks brokers in the client's rack, nil: it reads from the leader (KIP-392)
	tellHW    bool                       // a follower that does not know the high watermark is told soon
	refused   bool                       // it asks for a negative number of bytes
	resp      *kmsg.FetchResponse
	fc        *fetchContext
	maxBytes  int
	minBytes  int64
	deadline  time.Time // of the long poll
	img       *metastore.Image
	alone     bool // it has a goroutine of its own
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
	if len(state.cold) == 0 && !f.a.mayWait(len(f.fc.parts)) {
		fetchesNotKept.Inc()
		f.finish()
		return
	}
	req := f.c.req.Body.(*kmsg.FetchRequest)
	req.Topics, req.ForgottenTopics = nil, nil // what is needed of them was taken
	f.a.waiting.Add(1)
	f.a.waitingParts.Add(int64(len(f.fc.parts)))
	go f.a.guard(f.c, func() {
		defer f.releaseIfUnanswered()
		if f.wait(state) {
			f.alone = true
			f.finish()
		}
	})
}

// mayWait says whether one more fetch, of so many partitions, may be kept
// waiting.
func (a *API) mayWait(parts int) bool {
	return a.waiting.Load() < int64(a.cfg.MaxWaitingFetches) && a.waitingParts.Load()+int64(parts) <= int64(a.cfg.MaxWaitingParts)
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

// readState is the outcome of reading the partitions.
type readState struct {
	bytes    int64 // of records
	claimed  int   // bytes left for cold partitions
	failed   bool  // a partition that exists has an error or diverges, or is to be read elsewhere
	news     bool  // a follower does not know the high watermark
	readable int   // partitions that could be read at all
	cold     []coldPart
}

type coldPart struct {
	part     *fetchPart
	maxBytes int
}

// left is how many bytes the reply may still have.
func (s *readState) left(f *fetchCall) int {
	return max(0, f.maxBytes-s.claimed-int(min(s.bytes, math.MaxInt32)))
}

// first says that there is nothing yet, which gives the right to a batch
// larger than what was asked for.
func (s *readState) first() bool { return s.bytes == 0 && len(s.cold) == 0 }

// enough says whether the request can be answered without waiting.
func (s *readState) enough(f *fetchCall) bool {
	return s.bytes >= f.minBytes || s.failed || s.readable == 0
}

// wait waits until there is enough, and says whether it is to be answered.
// Meanwhile it holds what it has read, and a place among the subscribers of its
// partitions; it wakes up when one of them moves, and reads those that did.
func (f *fetchCall) wait(state readState) bool {
	defer f.a.waiting.Add(-1)
	defer f.a.waitingParts.Add(-int64(len(f.fc.parts)))
	wake := make(chan struct{}, 1)
	defer f.subscribe(wake)()
	var hurried chan struct{}
	if f.replica.isBroker() { // which asks for something else when it does not wait for this
		hurried = make(chan struct{}, 1)
		f.c.req.Hurried(hurried)
	}
	timer := time.NewTimer(time.Until(f.deadline))
	defer timer.Stop()
	soon := false
	for over := false; ; fetchWakeUps.Inc() {
		if len(state.cold) == 0 {
			f.readMoved(&state) // at first: what came before subscribing
		}
		if len(state.cold) > 0 {
			f.readCold(&state, wake)
			return true // Kafka too answers when a remote read is over, whatever it gave
		}
		if over || state.enough(f) || !time.Now().Before(f.deadline) {
			return true
		}
		if state.news && !soon {
			soon = true
			timer.Reset(min(tellWithin, time.Until(f.deadline)))
		}
		select {
		case <-wake:
		case <-timer.C:
			over = true
		case <-hurried:
			over = true
		case <-f.c.ctx.Done():
			f.release()
			f.c.reply(wire.Reply{Close: true, Reason: "the connection ended"})
			return false
		}
	}
}

// subscribe has wake called when one of the partitions moves.
func (f *fetchCall) subscribe(wake chan struct{}) (cancel func()) {
	cancels := make([]func(), 0, len(f.fc.parts))
	for _, fp := range f.fc.parts {
		if fp.p != nil {
			cancels = append(cancels, fp.p.Subscribe(wake, f.replica.isBroker()))
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
func (f *fetchCall) readHot() (state readState) {
	f.img = f.a.deps.Meta.Image()
	for _, fp := range f.fc.parts {
		f.readOne(&state, fp)
	}
	return state
}

// readMoved reads again what has moved since it was read.
func (f *fetchCall) readMoved(state *readState) {
	if f.a.deps.Meta.Image() != f.img { // other topics, perhaps
		f.release()
		*state = f.readHot()
		return
	}
	for _, fp := range f.fc.parts {
		if fp.p == nil || fp.p.Extent(f.replica.isBroker()) == fp.reply.extent {
			continue
		}
		state.bytes -= fp.reply.size()
		state.readable--
		fp.reply.release()
		f.readOne(state, fp)
	}
}

// readOne reads a partition, unless that has to be a cold read.
func (f *fetchCall) readOne(state *readState, fp *fetchPart) {
	fp.reply = fetchReply{extent: untold}
	p, known, err := f.resolve(fp)
	fp.p = p
	if err != nil {
		state.readable += known
		state.failed = state.failed || known > 0
		f.failPart(fp, err)
		if known == 0 {
			fp.reply.place, fp.reply.listed = placeUnknownPartition, true
			if errors.Is(err, kerr.UnknownTopicID) {
				fp.reply.place = placeUnknownID
			}
		}
		return
	}
	state.readable++
	if f.sentElsewhere(fp, p) {
		state.failed = true // Kafka answers at once
		return
	}
	budget := min(state.left(f), max(0, int(fp.want.maxBytes)))
	if f.replica.isBroker() && p.IsCold(record.Offset(fp.want.offset)) {
		f.movedToTier(fp, p)
		state.failed = true
		return
	}
	if p.IsCold(record.Offset(fp.want.offset)) && checkEpoch(fp.want.leaderEpoch, p.State().Epoch) == nil {
		f.offsets(fp, p)
		if (budget > 0 || state.first()) && len(state.cold) < coldPerFetch {
			state.cold = append(state.cold, coldPart{fp, budget})
			state.claimed += budget
		}
		return
	}
	if f.replica.isBroker() && !fp.counted {
		fp.counted = true // once for each request
		p.ReplicaFetched(replica.Fetch{
			Replica: f.replica.id, BrokerEpoch: f.replica.epoch,
			Epoch: record.Epoch(fp.want.leaderEpoch), Offset: record.Offset(fp.want.offset), LogStart: record.Offset(fp.want.logStart),
		}, record.Epoch(fp.want.fetchedEpoch))
	}
	if f.heldBack(fp) {
		f.offsets(fp, p)
		return
	}
	n, failed := f.read(f.c.ctx, fp, budget, state.first())
	state.failed = state.failed || failed
	state.bytes += n
	state.news = state.news || f.tellHW && int64(fp.reply.extent.HighWatermark) > fp.told
}

// heldBack says that a follower that is not in sync gets no records, because
// enough was copied from this broker (KIP-73).
func (f *fetchCall) heldBack(fp *fetchPart) bool {
	if !f.replica.isBroker() || f.a.deps.LeaderQuota == nil {
		return false
	}
	t := f.img.Topics[fp.topic]
	fp.quota = f.a.deps.LeaderQuota(t.ID, record.PartitionID(fp.key.p))
	return !slices.Contains(t.Partitions[fp.key.p].ISR, f.replica.id) && fp.quota.Wait(f.a.now()) > 0
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
	if err := f.replica.check(f.img, &t.Partitions[fp.key.p]); err != nil {
		return nil, 1, err
	}
	if f.refused || fp.want.maxBytes < 0 {
		return nil, 1, kerr.InvalidRequest
	}
	if p, err = f.a.open(t, fp.key.p); err != nil {
		return nil, 1, err
	}
	return p, 1, nil
}

// replicaID is who a Fetch says it comes from.
type replicaID struct {
	id    record.BrokerID // < 0: a consumer
	epoch int64           // of the broker, -1 unknown (KIP-903)
}

func replicaOf(req *kmsg.FetchRequest) replicaID {
	if req.Version >= 15 {
		return replicaID{record.BrokerID(req.ReplicaState.ID), req.ReplicaState.Epoch}
	}
	return replicaID{record.BrokerID(req.ReplicaID), -1}
}

func (r replicaID) isBroker() bool { return r.id >= 0 }

// check refuses a fetch for a replica that is none, or not under that broker
// epoch: what it fetches would count as acknowledged by it.
func (r replicaID) check(img *metastore.Image, p *metastore.Partition) error {
	if r.isBroker() && (!slices.Contains(p.Replicas, r.id) || img.Brokers[r.id].Epoch != r.epoch) {
		return kerr.NotLeaderForPartition
	}
	return nil
}

// read reads one partition into its reply.
func (f *fetchCall) read(ctx context.Context, fp *fetchPart, maxBytes int, oneBatch bool) (n int64, failed bool) {
	before := fp.p.Extent(f.replica.isBroker())
	res, err := fp.p.Read(ctx, partition.ReadRequest{
		Offset:           record.Offset(fp.want.offset),
		MaxBytes:         maxBytes,
		MinOneBatch:      oneBatch,
		Isolation:        f.isolation,
		Replica:          f.replica.isBroker(),
		Anywhere:         f.version >= 11 && !f.replica.isBroker(),
		CurrentEpoch:     record.Epoch(fp.want.leaderEpoch),
		LastFetchedEpoch: record.Epoch(fp.want.fetchedEpoch),
	})
	r := &fp.reply
	if err != nil {
		record.ReleaseSpans(res.Spans)
		if ended(err) { // nothing yet: the bytes are there at the next try
			f.offsets(fp, fp.p)
			return 0, false
		}
		f.failPart(fp, err)
		if f.replica.isBroker() && errors.Is(err, kerr.OffsetOutOfRange) {
			r.extent.LogStart = res.LogStartOffset // where it may begin anew
		}
		return 0, true
	}
	before.LogStart, before.LastStableOffset, before.HighWatermark = res.LogStartOffset, res.LastStableOffset, res.HighWatermark
	r.extent = before
	// As with Kafka, where not even one batch fits there is no list.
	tooSmall := len(res.Spans) == 0 && maxBytes > 0 && record.Offset(fp.want.offset) < res.LastStableOffset
	if r.listed = f.isolation == record.ReadCommitted && !tooSmall; r.listed {
		r.aborted = res.Aborted
	}
	if res.Diverging != nil && f.version >= 12 {
		r.diverging = res.Diverging
		record.ReleaseSpans(res.Spans)
		return 0, true
	}
	r.spans = res.Spans
	return r.size(), false
}

// offsets fills in a reply without records.
func (f *fetchCall) offsets(fp *fetchPart, p *partition.Partition) {
	fp.reply.extent = p.Extent(f.replica.isBroker())
	fp.reply.listed = f.isolation == record.ReadCommitted
}

// failPart makes fp's reply an error.
func (f *fetchCall) failPart(fp *fetchPart, err error) {
	fp.reply.release()
	fp.reply = fetchReply{extent: untold, code: codeOf(err)}
	if c := fp.reply.code; c == kerr.UnknownServerError.Code || c == kerr.KafkaStorageError.Code {
		f.a.failed("fetch failed", "topic", fp.topic, "partition", fp.key.p, "offset", fp.want.offset, "error", err)
	}
}

// movedToTier tells a follower that what it asks for is in object storage, where
// it need not copy it from (KIP-405).
func (f *fetchCall) movedToTier(fp *fetchPart, p *partition.Partition) {
	if err := p.Answers(record.Epoch(fp.want.leaderEpoch), false); err != nil {
		f.failPart(fp, err)
		return
	}
	f.failPart(fp, kerr.OffsetMovedToTieredStorage)
	e := p.Extent(false)
	fp.reply.extent.LogStart, fp.reply.extent.HighWatermark = e.LogStart, e.HighWatermark
}

// encode gives the reply of fp as it is sent, without its records.
func (f *fetchCall) encode(fp *fetchPart, out *kmsg.FetchResponseTopicPartition) {
	*out = kmsg.NewFetchResponseTopicPartition()
	r := &fp.reply
	out.Partition, out.ErrorCode = fp.key.p, r.code
	out.HighWatermark, out.LastStableOffset, out.LogStartOffset = int64(r.extent.HighWatermark), int64(r.extent.LastStableOffset), int64(r.extent.LogStart)
	if r.listed {
		out.AbortedTransactions = make([]kmsg.FetchResponseTopicPartitionAbortedTransaction, len(r.aborted))
		for i, t := range r.aborted {
			at := &out.AbortedTransactions[i]
			at.ProducerID, at.FirstOffset = t.ProducerID, int64(t.FirstOffset)
		}
	}
	if d := r.diverging; d != nil {
		out.DivergingEpoch.Epoch, out.DivergingEpoch.EndOffset = int32(d.Epoch), int64(d.Start)
	}
	if r.elsewhere {
		out.PreferredReadReplica = int32(r.from)
	}
	switch r.code {
	case kerr.NotLeaderForPartition.Code, kerr.FencedLeaderEpoch.Code:
		if t := f.img.Topics[fp.topic]; f.version >= 16 && t != nil && int(fp.key.p) < len(t.Partitions) {
			mp := t.Partitions[fp.key.p]
			out.CurrentLeader.LeaderID, out.CurrentLeader.LeaderEpoch = int32(mp.Leader), int32(mp.Epoch)
			f.addBroker(mp.Leader)
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
		f.addParts(reply, parts, place)
	}
	for _, fp := range f.fc.parts {
		fp.reply.release() // what was not taken into the reply
	}
	f.c.reply(wire.Reply{Fetch: reply, Alone: f.alone})
}

// addParts adds those of a place, with neighbours of one topic together.
func (f *fetchCall) addParts(reply *wire.FetchReply, parts []*fetchPart, place int8) {
	for len(parts) > 0 {
		first, n := parts[0], 0
		run := 0
		for ; run < len(parts); run++ {
			if fp := parts[run]; fp.reply.place == place && fp.key.sameTopic(&first.key) {
				n++
			} else if fp.reply.place == place || n == 0 {
				break
			}
		}
		if n == 0 {
			parts = parts[1:]
			continue
		}
		t, spans := f.addTopic(reply, &first.key, n)
		for _, fp := range parts[:run] {
			if fp.reply.place == place {
				if n := fp.reply.size(); f.replica.isBroker() {
					fp.quota.Copied(f.a.now(), n)
				} else if n > 0 {
					fp.p.Served(n)
				}
				t.Partitions = t.Partitions[:len(t.Partitions)+1]
				f.encode(fp, &t.Partitions[len(t.Partitions)-1])
				*spans = append(*spans, fp.reply.spans)
				fp.reply.spans = nil
			}
		}
		parts = parts[run:]
	}
}

// addTopic gives the place of n more partitions of a topic.
func (f *fetchCall) addTopic(reply *wire.FetchReply, key *fetchKey, n int) (*kmsg.FetchResponseTopic, *[][]record.Span) {
	last := len(f.resp.Topics) - 1
	if last < 0 || f.resp.Topics[last].Topic != key.topic || f.resp.Topics[last].TopicID != key.id {
		t := kmsg.NewFetchResponseTopic()
		t.Topic, t.TopicID = key.topic, key.id
		f.resp.Topics = append(f.resp.Topics, t)
		reply.Spans = append(reply.Spans, nil)
		last++
	}
	t, spans := &f.resp.Topics[last], &reply.Spans[last]
	t.Partitions = slices.Grow(t.Partitions, n)
	*spans = slices.Grow(*spans, n)
	return t, spans
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
