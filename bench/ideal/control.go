package main

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// control answers what blast asks beside Produce and Fetch.
func (c *conn) control(key, version int16, correlation int32, body []byte) error {
	req := kmsg.RequestForKey(key)
	if req == nil {
		return fmt.Errorf("request %d is not answered here", key)
	}
	req.SetVersion(version)
	if err := req.ReadFrom(body); err != nil {
		return err
	}
	var resp kmsg.Response
	var err error
	switch req := req.(type) {
	case *kmsg.CreateTopicsRequest:
		resp, err = c.s.createTopics(req)
	case *kmsg.MetadataRequest:
		resp = c.s.metadata(req)
	case *kmsg.ListOffsetsRequest:
		resp = c.s.listOffsets(req)
	default:
		err = fmt.Errorf("request %s is not answered here", kmsg.NameForKey(key))
	}
	if err != nil {
		return err
	}
	resp.SetVersion(version)
	b := binary.BigEndian.AppendUint32(nil, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	return c.respond(resp.AppendTo(b))
}

func (s *server) createTopics(req *kmsg.CreateTopicsRequest) (kmsg.Response, error) {
	resp := kmsg.NewPtrCreateTopicsResponse()
	for _, t := range req.Topics {
		synced := false
		for _, c := range t.Configs {
			synced = synced || c.Name == "flush.messages" && c.Value != nil && *c.Value == "1"
		}
		ps, err := s.newPartitions(t.Topic, int(t.NumPartitions), synced)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.topics[t.Topic] = ps
		s.mu.Unlock()
		rt := kmsg.NewCreateTopicsResponseTopic()
		rt.Topic = t.Topic
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (s *server) metadata(req *kmsg.MetadataRequest) kmsg.Response {
	resp := kmsg.NewPtrMetadataResponse()
	resp.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: s.addr.IP.String(), Port: int32(s.addr.Port)}}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, t := range req.Topics {
		rt := kmsg.NewMetadataResponseTopic()
		rt.Topic = t.Topic
		for i := range s.topics[*t.Topic] {
			rp := kmsg.NewMetadataResponseTopicPartition()
			rp.Partition, rp.Leader, rp.Replicas, rp.ISR = int32(i), 1, []int32{1}, []int32{1}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (s *server) listOffsets(req *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := kmsg.NewPtrListOffsetsResponse()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, t := range req.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			rp.Partition, rp.Timestamp = p.Partition, -1
			part := s.topics[t.Topic][p.Partition]
			part.mu.Lock()
			rp.Offset = part.end
			part.mu.Unlock()
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}
