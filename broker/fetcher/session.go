package fetcher

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// key names a partition in Fetch requests of version 13 and later.
type key struct {
	id record.TopicID
	p  record.PartitionID
}

// want is what is asked of one partition.
type want struct {
	replica.Ask
	logStart record.Offset
}

// session is a fetch session (KIP-227) as its follower sees it: what the leader
// was told to read, so that a request has only what changed.
type session struct {
	id    int32
	epoch int32 // of the next request; 0: a new session
	told  map[key]want
}

// reset begins anew: the next request names everything, and ends the session
// that the leader may still have.
func (s *session) reset() {
	s.epoch = 0
	clear(s.told)
}

// lasts says whether the leader keeps the session, so that its next request
// ends the wait of the one before.
func (s *session) lasts() bool { return s.id != 0 && s.epoch > 0 }

// request begins the partitions of the next request.
func (s *session) request() *request {
	return &request{s: s, topicAt: map[record.TopicID]int{}, forgottenAt: map[record.TopicID]int{}}
}

// request is what of a session goes into one request.
type request struct {
	s           *session
	topics      []kmsg.FetchRequestTopic
	forgotten   []kmsg.FetchRequestForgottenTopic
	topicAt     map[record.TopicID]int
	forgottenAt map[record.TopicID]int
}

// want asks for a partition, unless the leader knows.
func (r *request) want(k key, w want, maxBytes int32) {
	if told, ok := r.s.told[k]; ok && told == w {
		return
	}
	r.s.told[k] = w
	i, ok := r.topicAt[k.id]
	if !ok {
		i = len(r.topics)
		r.topicAt[k.id] = i
		t := kmsg.NewFetchRequestTopic()
		t.TopicID = k.id
		r.topics = append(r.topics, t)
	}
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.PartitionMaxBytes = int32(k.p), maxBytes
	p.FetchOffset, p.CurrentLeaderEpoch, p.LastFetchedEpoch = int64(w.Offset), int32(w.Epoch), int32(w.LastEpoch)
	p.LogStartOffset = int64(w.logStart)
	r.topics[i].Partitions = append(r.topics[i].Partitions, p)
}

// forget takes a partition from the session, if it is in it.
func (r *request) forget(k key) {
	if _, ok := r.s.told[k]; !ok {
		return
	}
	delete(r.s.told, k)
	i, ok := r.forgottenAt[k.id]
	if !ok {
		i = len(r.forgotten)
		r.forgottenAt[k.id] = i
		t := kmsg.NewFetchRequestForgottenTopic()
		t.TopicID = k.id
		r.forgotten = append(r.forgotten, t)
	}
	r.forgotten[i].Partitions = append(r.forgotten[i].Partitions, int32(k.p))
}

// answered notes that the leader answered under a session id; 0: it keeps none,
// and everything has to be told again.
func (s *session) answered(id int32) {
	if id == 0 {
		s.id = 0
		s.reset()
		return
	}
	s.id = id
	if s.epoch++; s.epoch <= 0 { // after 2^31-1
		s.epoch = 1
	}
}
