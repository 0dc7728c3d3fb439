package kafkadiff

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ask sends a request on a connection that no scenario uses.
func ask[R kmsg.Response](addr string, conns map[string]*conn, req kmsg.Request) (R, error) {
	var none R
	const name = "(own)"
	c := conns[name]
	if c == nil || !c.usable() {
		var err error
		if c, err = dial(addr); err != nil {
			return none, err
		}
		conns[name] = c
	}
	e := c.send(frame{correlation: 1, bytes: kmsg.NewRequestFormatter(kmsg.FormatterClientID("kafkadiff")).AppendRequest(nil, req, 1)})
	if !e.wait(usualLimit) || e.word != "" {
		return none, fmt.Errorf("%s: %s", kmsg.NameForKey(req.Key()), e.word)
	}
	resp := req.ResponseKind()
	body := e.body
	if resp.IsFlexible() && req.Key() != int16(kmsg.ApiVersions) {
		var ok bool
		if _, body, ok = readTags(body); !ok {
			return none, errors.New("bad header of an answer")
		}
	}
	return resp.(R), resp.ReadFrom(body)
}

// createTopic does what `topic $t partitions=N KEY=VALUE…` says and returns
// when the topic can be written to.
func (r *runner) createTopic(a topic) error {
	name := a.name + r.n.suffix
	r.vars[a.name] = name
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version = 7
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, 1, 1
	for _, f := range strings.Fields(a.spec) {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return fmt.Errorf("topic: want NAME=VALUE, not %q", f)
		}
		if k == "partitions" {
			n, err := strconv.ParseInt(v, 10, 32)
			if err != nil {
				return err
			}
			t.NumPartitions = int32(n)
			continue
		}
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, &v
		t.Configs = append(t.Configs, c)
	}
	req.Topics = append(req.Topics, t)
	resp, err := ask[*kmsg.CreateTopicsResponse](r.addr, r.conns, req)
	if err != nil {
		return err
	}
	if got := resp.Topics[0]; got.ErrorCode != 0 {
		return fmt.Errorf("topic $%s: %v", a.name, errorName(int64(got.ErrorCode)))
	}
	topicID := id(fmt.Sprintf("%x", resp.Topics[0].TopicID))
	r.vars[a.name+".id"] = string(topicID)
	r.n.bind(a.name+".id", "TopicID", topicID)
	return r.awaitTopic(name, awaitTopic{parts: int(t.NumPartitions)})
}

// awaitTopic waits until every partition of a topic answers, or until the
// topic is not known any more: Kafka does both a little after it has answered.
func (r *runner) awaitTopic(name string, want awaitTopic) error {
	deadline := time.Now().Add(untilLimit)
	for {
		ready, err := topicReady(r.addr, r.conns, name, want)
		if err != nil || ready {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("topic %s: not ready (gone: %v) within %v", name, want.gone, untilLimit)
		}
		time.Sleep(pollInterval)
	}
}

func topicReady(addr string, conns map[string]*conn, name string, want awaitTopic) (bool, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &name
	req.Topics = append(req.Topics, t)
	meta, err := ask[*kmsg.MetadataResponse](addr, conns, req)
	if err != nil {
		return false, err
	}
	if want.gone {
		return meta.Topics[0].ErrorCode == 3, nil
	}
	if meta.Topics[0].ErrorCode != 0 || len(meta.Topics[0].Partitions) < want.parts {
		return false, nil
	}
	offsets := kmsg.NewPtrListOffsetsRequest()
	offsets.Version = 7
	ot := kmsg.NewListOffsetsRequestTopic()
	ot.Topic = name
	for _, p := range meta.Topics[0].Partitions {
		op := kmsg.NewListOffsetsRequestTopicPartition()
		op.Partition, op.Timestamp = p.Partition, -1
		ot.Partitions = append(ot.Partitions, op)
	}
	offsets.Topics = append(offsets.Topics, ot)
	ends, err := ask[*kmsg.ListOffsetsResponse](addr, conns, offsets)
	if err != nil {
		return false, err
	}
	for _, t := range ends.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

// Prime returns once the broker has coordinators for groups and gives out
// producer ids: both start a little after a broker answers.
func Prime(addr string) error {
	conns := map[string]*conn{}
	defer func() {
		for _, c := range conns {
			c.close()
		}
	}()
	deadline := time.Now().Add(untilLimit)
	for {
		ready, err := primed(addr, conns)
		if ready {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready within %v: %w", addr, untilLimit, err)
		}
		time.Sleep(pollInterval)
	}
}

func primed(addr string, conns map[string]*conn) (bool, error) {
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version = 3
	find.CoordinatorKey = "prime"
	found, err := ask[*kmsg.FindCoordinatorResponse](addr, conns, find)
	if err != nil || found.ErrorCode != 0 {
		return false, err
	}
	init := kmsg.NewPtrInitProducerIDRequest()
	init.Version = 4
	producer, err := ask[*kmsg.InitProducerIDResponse](addr, conns, init)
	if err != nil || producer.ErrorCode != 0 {
		return false, err
	}
	// So many groups that every partition of __consumer_offsets has one.
	for i := range 500 {
		fetch := kmsg.NewPtrOffsetFetchRequest()
		fetch.Version = 5
		fetch.Group = "prime" + strconv.Itoa(i)
		got, err := ask[*kmsg.OffsetFetchResponse](addr, conns, fetch)
		if err != nil || got.ErrorCode != 0 {
			return false, err
		}
	}
	return true, nil
}

// Advertised asks which APIs and versions the broker at addr serves.
func Advertised(addr string) ([]kmsg.ApiVersionsResponseApiKey, error) {
	conns := map[string]*conn{}
	defer func() {
		for _, c := range conns {
			c.close()
		}
	}()
	resp, err := ask[*kmsg.ApiVersionsResponse](addr, conns, kmsg.NewPtrApiVersionsRequest())
	if err != nil {
		return nil, err
	}
	return resp.ApiKeys, nil
}
