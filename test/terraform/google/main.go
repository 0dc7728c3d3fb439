// Command google is a Terraform provider that has the schemas of Google's and
// makes nothing: plans and applies against it show what modules would ask for,
// checked by the real names and types of arguments, and no cloud is asked.
//
//	google schemas FILE.tgz OUT   writes the schemas of npm's @cdktf/provider-google as JSON
//	google                        is started by Terraform, with the file OUT in FIRN_STANDIN_SCHEMAS
//
// What a cloud would fill in is made up: standin-ATTRIBUTE for a string, 1, false.
// FIRN_STANDIN_DATA, JSON, sets what data sources answer: {"google_compute_zones": {"names": ["a"]}}.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tfprotov5/tf5server"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) == 4 && os.Args[1] == "schemas" {
		all, err := readPackage(os.Args[2])
		if err != nil {
			return err
		}
		data, err := json.Marshal(all)
		if err != nil {
			return err
		}
		return os.WriteFile(os.Args[3], data, 0o644)
	}
	data, err := os.ReadFile(os.Getenv("FIRN_STANDIN_SCHEMAS"))
	if err != nil {
		return fmt.Errorf("FIRN_STANDIN_SCHEMAS: %w", err)
	}
	var s schemas
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("FIRN_STANDIN_SCHEMAS: %w", err)
	}
	answers := map[string]map[string]any{}
	if text := os.Getenv("FIRN_STANDIN_DATA"); text != "" {
		if err := json.Unmarshal([]byte(text), &answers); err != nil {
			return fmt.Errorf("FIRN_STANDIN_DATA: %w", err)
		}
	}
	return tf5server.Serve("registry.terraform.io/hashicorp/google", func() tfprotov5.ProviderServer {
		return &server{schemas: s, answers: answers}
	})
}
