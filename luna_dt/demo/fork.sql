-- The LUNA fork's tables as of early 2026: names, types and defaults read from a live database.
-- The demo and the tests fill them; luna_dt itself only ever reads such tables.

CREATE TABLE image (
    id serial PRIMARY KEY,
    root_folder_id integer NOT NULL,
    folder_id integer NOT NULL,
    path text NOT NULL,
    file_name text NOT NULL,
    prompt text,
    negative_prompt text,
    steps integer DEFAULT 0,
    sampler text,
    cfg_scale numeric(5,2) DEFAULT 0.0,
    seed bigint DEFAULT 0,
    width integer DEFAULT 0,
    height integer DEFAULT 0,
    model_hash text,
    model text,
    batch_size integer DEFAULT 1,
    batch_pos integer DEFAULT 0,
    generated_tags text,
    loras jsonb,
    vae text,
    refiner_model text,
    refiner_switch numeric(4,2),
    upscaler text,
    upscale_factor numeric(3,1),
    hires_steps integer,
    hires_upscaler text,
    hires_upscale numeric(3,1),
    denoising_strength numeric(4,2),
    controlnets jsonb,
    ip_adapter text,
    ip_adapter_strength numeric(4,2),
    wildcards_used text[],
    generation_time_seconds numeric(6,2),
    scheduler text,
    created_date timestamp NOT NULL,
    modified_date timestamp NOT NULL,
    file_size bigint DEFAULT 0,
    hash text,
    custom_tags text,
    rating integer,
    favorite boolean DEFAULT false,
    for_deletion boolean DEFAULT false,
    nsfw boolean DEFAULT false,
    unavailable boolean DEFAULT false,
    viewed_date timestamp,
    touched_date timestamp,
    civitai_image_id bigint,
    civitai_post_id bigint,
    civitai_username varchar(255),
    civitai_nsfw_level varchar(50),
    civitai_browsing_level integer,
    civitai_base_model varchar(255),
    civitai_created_at timestamp,
    civitai_image_url text,
    civitai_like_count integer,
    aesthetic_score numeric(4,2),
    hyper_network text,
    hyper_network_strength numeric(4,2),
    clip_skip integer,
    ensd integer,
    workflow text,
    workflow_id text,
    no_metadata boolean DEFAULT false,
    has_error boolean DEFAULT false,
    scan_phase integer NOT NULL DEFAULT 1,
    prompt_embedding_id integer,
    negative_prompt_embedding_id integer,
    image_embedding_id integer,
    needs_visual_embedding boolean DEFAULT true,
    is_upscaled boolean DEFAULT false,
    base_image_id integer,
    metadata_hash text,
    embedding_source_id integer,
    is_embedding_representative boolean DEFAULT false,
    image_uuid uuid NOT NULL DEFAULT gen_random_uuid(),
    story_id uuid,
    turn_number integer,
    character_id uuid,
    location_id uuid,
    image_type varchar(50),
    status varchar(20),
    comfyui_workflow varchar(100),
    error_message text,
    prompt_embedding vector(1024),
    negative_prompt_embedding vector(1024),
    image_embedding vector(1280),
    clip_l_embedding vector(768),
    clip_g_embedding vector(1280),
    bge_prompt_embedding vector(1024),
    bge_caption_embedding vector(1024),
    bge_tags_embedding vector(1024),
    clip_l_prompt_embedding vector(768),
    clip_g_prompt_embedding vector(1280),
    clip_vision_embedding vector(1280),
    t5xxl_prompt_embedding vector(4096),
    t5xxl_caption_embedding vector(4096),
    needs_bge_prompt_embedding boolean,
    needs_bge_caption_embedding boolean,
    needs_bge_tags_embedding boolean,
    needs_clip_l_prompt_embedding boolean,
    needs_clip_g_prompt_embedding boolean,
    needs_clip_vision_embedding boolean,
    needs_t5xxl_prompt_embedding boolean,
    needs_t5xxl_caption_embedding boolean,
    created_at timestamp DEFAULT now()
);

CREATE TABLE image_tags (
    id serial PRIMARY KEY,
    image_id integer NOT NULL,
    tag text NOT NULL,
    confidence real NOT NULL DEFAULT 1.0,
    source text NOT NULL DEFAULT 'manual'::text,
    created_at timestamp DEFAULT now()
);

CREATE TABLE image_captions (
    id serial PRIMARY KEY,
    image_id integer NOT NULL,
    caption text NOT NULL,
    source text NOT NULL DEFAULT 'manual'::text,
    prompt_used text,
    is_user_edited boolean DEFAULT false,
    token_count integer,
    generation_time_ms real,
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now()
);

CREATE TABLE face_detection (
    id serial PRIMARY KEY,
    image_id integer NOT NULL,
    face_index integer NOT NULL DEFAULT 0,
    x integer NOT NULL DEFAULT 0,
    y integer NOT NULL DEFAULT 0,
    width integer NOT NULL DEFAULT 0,
    height integer NOT NULL DEFAULT 0,
    confidence real NOT NULL DEFAULT 0.0,
    quality_score real DEFAULT 0.0,
    sharpness_score real DEFAULT 0.0,
    pose_yaw real,
    pose_pitch real,
    pose_roll real,
    face_crop bytea,
    crop_width integer DEFAULT 0,
    crop_height integer DEFAULT 0,
    landmarks jsonb,
    arcface_embedding vector(512),
    has_embedding boolean DEFAULT false,
    expression text,
    expression_confidence real,
    detection_model text DEFAULT 'yolo11-face'::text,
    face_group_id integer,
    detected_date timestamp DEFAULT now(),
    processing_time_ms real DEFAULT 0.0
);

CREATE TABLE face_group (
    id serial PRIMARY KEY,
    name text,
    representative_face_id integer,
    face_count integer DEFAULT 0,
    avg_confidence real DEFAULT 0.0,
    avg_quality_score real DEFAULT 0.0,
    thumbnail bytea,
    is_manual_group boolean DEFAULT false,
    cluster_cohesion real,
    notes text,
    created_date timestamp DEFAULT now(),
    modified_date timestamp
);

CREATE TABLE face_group_member (
    id serial PRIMARY KEY,
    face_group_id integer NOT NULL,
    face_detection_id integer NOT NULL,
    similarity_score real DEFAULT 0.0,
    added_date timestamp DEFAULT now()
);

CREATE TABLE folder (
    id serial PRIMARY KEY,
    parent_id integer DEFAULT 0,
    root_folder_id integer NOT NULL,
    path text NOT NULL,
    path_tree text,
    image_count integer DEFAULT 0,
    scanned_date timestamp,
    unavailable boolean DEFAULT false,
    archived boolean DEFAULT false,
    excluded boolean DEFAULT false,
    is_root boolean DEFAULT false,
    recursive boolean DEFAULT false,
    watched boolean DEFAULT false,
    schema_name text,
    created_at timestamp DEFAULT now()
);

CREATE TABLE album (
    id serial PRIMARY KEY,
    name text NOT NULL,
    "order" integer DEFAULT 0,
    last_updated timestamp NOT NULL,
    created_at timestamp DEFAULT now()
);

CREATE TABLE album_image (
    id serial PRIMARY KEY,
    album_id integer NOT NULL,
    image_id integer NOT NULL,
    added_at timestamp DEFAULT now()
);

CREATE TABLE thumbnail (
    id serial PRIMARY KEY,
    path text NOT NULL,
    size integer NOT NULL,
    data bytea NOT NULL,
    created_at timestamp DEFAULT now()
);

CREATE TABLE embedding_cache (
    id serial PRIMARY KEY,
    content_hash text NOT NULL,
    content_type text NOT NULL,
    content_text text,
    bge_embedding vector(1024),
    clip_l_embedding vector(768),
    clip_g_embedding vector(1280),
    clip_h_embedding vector(1024),
    bge_prompt_embedding vector(1024),
    bge_caption_embedding vector(1024),
    bge_tags_embedding vector(1024),
    clip_l_prompt_embedding vector(768),
    clip_g_prompt_embedding vector(1280),
    clip_vision_embedding vector(1280),
    t5xxl_prompt_embedding vector(4096),
    t5xxl_caption_embedding vector(4096),
    reference_count integer DEFAULT 0,
    created_at timestamp DEFAULT now(),
    last_used_at timestamp DEFAULT now()
);

CREATE INDEX ON image_tags (image_id);
CREATE INDEX ON image_captions (image_id);
CREATE INDEX ON face_detection (image_id);
CREATE INDEX ON face_group_member (face_group_id);
